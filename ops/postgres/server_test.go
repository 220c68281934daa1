package postgres_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/ops/postgres"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, ctx context.Context, dir string) *postgres.Server {
	t.Helper()
	s, err := postgres.Start(ctx, dir, postgres.Options{Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query(ctx context.Context, dsn, sql string) (string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	last := results[len(results)-1]
	return string(last.Rows[0][0]), nil
}

func mustQuery(t *testing.T, ctx context.Context, dsn, sql string) string {
	t.Helper()
	s, err := query(ctx, dsn, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// until waits for a condition that another process brings about.
func until(t *testing.T, ctx context.Context, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting until %s: %v", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// passable makes a test's directory one that everybody may pass, as those that hold data directories are.
func passable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestALife(t *testing.T) {
	ctx := testContext(t)
	dir := filepath.Join(passable(t), "cluster", "postgres")
	s := start(t, ctx, dir)
	for setting, want := range map[string]string{"listen_addresses": "", "synchronous_commit": "off", "server_encoding": "UTF8"} {
		if got := mustQuery(t, ctx, s.DSN(), "SHOW "+setting); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	mustQuery(t, ctx, s.DSN(), "CREATE TABLE kept AS SELECT 'yes'::text AS v; SELECT 'done'")
	mustQuery(t, ctx, s.DSN(), "CHECKPOINT; SELECT 'done'") // the last transactions may be lost; see the package's documentation

	// Another process cannot have the directory meanwhile.
	if _, err := postgres.Start(ctx, dir, postgres.Options{}); !errors.Is(err, postgres.ErrInUse) {
		t.Errorf("starting a second server in the directory: %v, want ErrInUse", err)
	}

	// It comes back when it dies.
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, "another server answers", func() bool {
		p := s.PID()
		if p == 0 || p == pid {
			return false
		}
		_, err := query(ctx, s.DSN(), "SELECT 'up'")
		return err == nil
	})

	// What it keeps stays when it is stopped and started again.
	dsn := s.DSN()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := query(ctx, dsn, "SELECT 'up'"); err == nil {
		t.Error("the server answers although it was stopped")
	}
	s = start(t, ctx, dir)
	if got := mustQuery(t, ctx, s.DSN(), "SELECT v FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
}

func TestADirectoryBehindABarredOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test has to be run as root: it is about running Postgres as another user")
	}
	ctx := testContext(t)
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, ctx, filepath.Join(private, "cluster", "postgres"))
	if got := mustQuery(t, ctx, s.DSN(), "SELECT 'up'"); got != "up" {
		t.Error(got)
	}
	info, err := os.Stat(private)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("somebody else's directory was opened: %v", info.Mode())
	}
}

// A parent killed with SIGKILL leaves nothing that bars the next one.
func TestAKilledParent(t *testing.T) {
	for name, dir := range map[string]string{"passable": filepath.Join(passable(t), "postgres"), "barred": filepath.Join(t.TempDir(), "x", "y", "postgres")} {
		t.Run(name, func(t *testing.T) { aKilledParent(t, dir) })
	}
}

func aKilledParent(t *testing.T, dir string) {
	ctx := testContext(t)
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHelperParent$", "-test.v")
	cmd.Env = append(os.Environ(), "SHIPLOG_TEST_POSTGRES_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	lines := bufio.NewScanner(out)
	for pid == 0 && lines.Scan() {
		if _, after, ok := strings.Cut(lines.Text(), "server "); ok {
			pid, _ = strconv.Atoi(after)
		}
	}
	if pid == 0 {
		t.Fatal("the helper process has not started a server")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	s := start(t, ctx, dir)
	if got := mustQuery(t, ctx, s.DSN(), "SELECT v FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
	// The directory of a process can be looked at until it has ended, even when nobody has waited for it.
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && pid != s.PID() {
		t.Errorf("the killed parent's server %d still runs", pid)
	}
}

// TestHelperParent is the parent that TestAKilledParent kills; on its own it does nothing.
func TestHelperParent(t *testing.T) {
	dir := os.Getenv("SHIPLOG_TEST_POSTGRES_DIR")
	if dir == "" {
		return
	}
	ctx := testContext(t)
	s, err := postgres.Start(ctx, dir, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustQuery(t, ctx, s.DSN(), "CREATE TABLE kept AS SELECT 'yes'::text AS v; SELECT 'done'")
	mustQuery(t, ctx, s.DSN(), "CHECKPOINT; SELECT 'done'") // the last transactions may be lost; see the package's documentation
	os.Stdout.WriteString("server " + strconv.Itoa(s.PID()) + "\n")
	<-ctx.Done()
}

func TestADamagedDirectoryIsMadeAnew(t *testing.T) {
	ctx := testContext(t)
	dir := filepath.Join(t.TempDir(), "postgres")
	s := start(t, ctx, dir)
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "data", "global", "pg_control"), 0); err != nil {
		t.Fatal(err)
	}
	s = start(t, ctx, dir)
	if got := mustQuery(t, ctx, s.DSN(), "SELECT 'up'"); got != "up" {
		t.Error(got)
	}
}

// TestStartSaysWhyTheServerEnds: nobody waits for a server that ends each time it is run.
func TestStartSaysWhyTheServerEnds(t *testing.T) {
	_, err := postgres.Start(testContext(t), filepath.Join(t.TempDir(), "postgres"), postgres.Options{Settings: map[string]string{"shared_buffers": "plenty"}})
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("got %v, want what the server says of its setting", err)
	}
}

// TestADirectoryThatCannotBeMadeAnewYet: what is in the way of a new directory may go, and then the server comes back.
func TestADirectoryThatCannotBeMadeAnewYet(t *testing.T) {
	ctx := testContext(t)
	dir := filepath.Join(passable(t), "postgres")
	var log syncBuffer
	s, err := postgres.Start(ctx, dir, postgres.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	// A directory that is mounted cannot be removed.
	inTheWay := filepath.Join(dir, "data.making")
	if err := os.Mkdir(inTheWay, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", inTheWay, "tmpfs", 0, ""); err != nil {
		t.Fatalf("this test has to be run as root: mounting: %v", err)
	}
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			if err := syscall.Unmount(inTheWay, 0); err != nil {
				t.Error(err)
			}
		}
	}
	defer unmount()
	if err := os.RemoveAll(filepath.Join(dir, "data")); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, ctx, "the directory could not be made anew twice", func() bool { return strings.Count(log.String(), "it is tried again") >= 2 })
	unmount()
	until(t, ctx, "the server is back", func() bool {
		got, err := query(ctx, s.DSN(), "SELECT 'up'")
		return err == nil && got == "up"
	})
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAnInterruptedInitialisation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "postgres")
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := postgres.Start(ctx, dir, postgres.Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("starting with a cancelled context: %v", err)
	}
	ctx = testContext(t)
	s := start(t, ctx, dir)
	if got := mustQuery(t, ctx, s.DSN(), "SELECT 'up'"); got != "up" {
		t.Error(got)
	}
}
