package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/projections"
)

// Start returns all objects as of the position that the models reflect, for live.Options.Start. It is an error when Postgres is
// away, the tables are of another version or not there, or of another log.
func (m *Models) Start(ctx context.Context) (objects []*projections.Object, position uint64, err error) {
	identity, err := m.logIdentity(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("starting from the read models: %w", err)
	}
	err = m.read(ctx, "starting from the read models", func(tx pgx.Tx, at uint64) error {
		var owner string
		if err := tx.QueryRow(ctx, "SELECT identity FROM shiplog.log").Scan(&owner); err != nil {
			return err
		}
		if owner != identity {
			return ErrForeign
		}
		why, err := m.unusable(ctx, tx)
		if err != nil {
			return err
		}
		if why != "" {
			return fmt.Errorf("%w: %s", projections.ErrUnavailable, why)
		}
		result, err := tx.Query(ctx, "SELECT "+entryColumns+" FROM "+schemaLive+".current c")
		if err != nil {
			return err
		}
		entries, err := pgx.CollectRows(result, scanEntry)
		if err != nil {
			return err
		}
		objects, position = make([]*projections.Object, len(entries)), at
		for i, e := range entries {
			objects[i] = m.objectOf(e)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return objects, position, nil
}
