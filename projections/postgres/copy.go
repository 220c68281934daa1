package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// rows are rows of one table in Postgres' binary COPY format: written once, straight from what they are made of.
type rows struct {
	table *table
	buf   []byte
	n     int
}

var copyHeader = []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")

func newRows(t *table) *rows { return &rows{table: t} }

func (r *rows) begin() {
	if len(r.buf) == 0 {
		r.buf = append(r.buf, copyHeader...)
	}
	r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(len(r.table.columns)))
	r.n++
}

func (r *rows) bigint(v uint64) {
	r.buf = binary.BigEndian.AppendUint32(r.buf, 8)
	r.buf = binary.BigEndian.AppendUint64(r.buf, v)
}

func (r *rows) integer(v int) {
	r.buf = binary.BigEndian.AppendUint32(r.buf, 4)
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(int32(v)))
}

func (r *rows) boolean(v bool) {
	r.buf = binary.BigEndian.AppendUint32(r.buf, 1)
	if v {
		r.buf = append(r.buf, 1)
		return
	}
	r.buf = append(r.buf, 0)
}

// text writes text; what Postgres' text cannot hold (NUL, what is not UTF-8) is left out.
func (r *rows) text(v string) {
	if !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0 {
		v = strings.ReplaceAll(strings.ToValidUTF8(v, ""), "\x00", "")
	}
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(len(v)))
	r.buf = append(r.buf, v...)
}

// bytes writes text or JSON; nil is NULL.
func (r *rows) bytes(v []byte) {
	if v == nil {
		r.null()
		return
	}
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(len(v)))
	r.buf = append(r.buf, v...)
}

// jsonb writes JSON in the format of jsonb: a version byte before it; nil is NULL.
func (r *rows) jsonb(v []byte) {
	if v == nil {
		r.null()
		return
	}
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(len(v)+1))
	r.buf = append(append(r.buf, 1), v...)
}

func (r *rows) uuid(v uuid.UUID) {
	r.buf = binary.BigEndian.AppendUint32(r.buf, 16)
	r.buf = append(r.buf, v[:]...)
}

// timestamp writes microseconds since 2000.
func (r *rows) timestamp(t time.Time) {
	const epoch = 946684800
	r.bigint(uint64((t.Unix()-epoch)*1_000_000 + int64(t.Nanosecond())/1000))
}

func (r *rows) null() { r.buf = binary.BigEndian.AppendUint32(r.buf, 0xffffffff) }

// copyTo sends the rows.
func (r *rows) copyTo(ctx context.Context, tx pgx.Tx, schema string) error {
	if r.n == 0 {
		return nil
	}
	r.buf = binary.BigEndian.AppendUint16(r.buf, 0xffff)
	sql := fmt.Sprintf("COPY %s.%s (%s) FROM STDIN (FORMAT binary)", schema, r.table.name, r.table.columnNames())
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(r.buf), sql)
	if err != nil {
		return fmt.Errorf("writing %s: %w", r.table.name, err)
	}
	if tag.RowsAffected() != int64(r.n) {
		return fmt.Errorf("writing %s: %d rows of %d arrived", r.table.name, tag.RowsAffected(), r.n)
	}
	return nil
}
