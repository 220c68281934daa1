package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	privatepg "github.com/shiplog/shiplog/ops/postgres"
	"github.com/shiplog/shiplog/projections/postgres"
)

// postgresWithin is how long tending waits for a Postgres that is still starting.
const postgresWithin = 30 * time.Second

// tendRead gives a task the read models, once a Postgres that is still starting is up and they have caught up. When they do not catch
// up, the task says so.
func (cp *controlPlane) tendRead(ctx context.Context, report func(Step), task func(*postgres.Models) Step) Step {
	head, err := cp.log.Head(ctx)
	if err != nil {
		return Step{Failed: true, Message: "reading the log's head: " + err.Error()}
	}
	waiting, cancel := context.WithTimeout(ctx, postgresWithin)
	defer cancel()
	report(Step{Message: "letting the read models catch up with the log"})
	models, err := cp.models.get(waiting)
	if err != nil {
		return Step{Failed: true, Message: err.Error()}
	}
	_ = models.WaitFor(waiting, uint64(head))
	return task(models)
}

// rebuild builds models again and says how it comes along.
func rebuild(ctx context.Context, models *postgres.Models, names []string, report func(Step)) Step {
	if err := models.Rebuild(ctx, names, reporter(report)); err != nil {
		return Step{Failed: true, Message: "rebuilding the read models: " + err.Error()}
	}
	if len(names) == 0 {
		names = models.Names()
	}
	return Step{Message: "rebuilt " + strings.Join(names, ", ")}
}

// verify compares what is served with what the log says.
func verify(ctx context.Context, models *postgres.Models, report func(Step)) Step {
	v, err := models.Verify(ctx, reporter(report))
	if err != nil {
		return Step{Failed: true, Message: "verifying: " + err.Error()}
	}
	for _, c := range v.Models {
		if c.Equal {
			report(Step{Message: fmt.Sprintf("%-24s equal: %d rows, hash %s", c.Table, c.Rows, c.Hash)})
			continue
		}
		report(Step{Message: fmt.Sprintf("%-24s DIFFERS: %d rows as served, %d from the log", c.Table, c.Rows, c.RebuiltRows)})
		report(Step{Message: fmt.Sprintf("  only as served:    %s\n  only from the log: %s", c.ServedRow, c.LogRow)})
	}
	if !v.Equal() {
		return Step{Failed: true, Message: fmt.Sprintf("what is served at position %d is not what the log says: run `shiplog rebuild`, and report what is printed above", v.Position)}
	}
	return Step{Message: fmt.Sprintf("the log is sound up to position %d (%d events in %d streams), and every read model is what it says", v.Position, v.Events, v.Streams)}
}

// reporter turns the models' progress into steps, no more than a few a second.
func reporter(report func(Step)) func(postgres.Progress) {
	var last time.Time
	var lastStep string
	return func(p postgres.Progress) {
		now := time.Now()
		if p.Step == lastStep && now.Sub(last) < 300*time.Millisecond && p.Position < p.Head {
			return
		}
		last, lastStep = now, p.Step
		report(Step{Message: fmt.Sprintf("%s: %d of %d (%d events)", p.Step, p.Position, p.Head, p.Events)})
	}
}

// TendStopped does to the data directory of a stopped cluster what Tend asks of a running one.
func TendStopped(ctx context.Context, path, what string, names []string, report func(Step)) (_ Step, err error) {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	log, closeLog, err := OpenLog(path, logger)
	if err != nil {
		return Step{}, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	server, err := privatepg.Start(ctx, filepath.Join(path, postgresDir), privatepg.Options{Logger: logger})
	if err != nil {
		return Step{}, fmt.Errorf("starting Postgres for the read models: %w", err)
	}
	defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
	return tendModels(ctx, server.DSN(), log, path, what, names, report)
}

func verifyStoppedLog(ctx context.Context, log eventstore.Log, path string, report func(Step)) (Step, error) {
	key, err := knownKey(path)
	if err != nil {
		return Step{}, err
	}
	r, err := verifyLog(ctx, log, LogQuestion{}, key, report)
	if err != nil {
		return Step{}, err
	}
	return r.step(), nil
}

func tendModels(ctx context.Context, dsn string, log eventstore.Log, path, what string, names []string, report func(Step)) (Step, error) {
	models, err := postgres.Open(ctx, postgres.Config{DSN: dsn, Log: log, Kinds: domain.NewSet(domain.Kinds())})
	if err != nil {
		return Step{}, err
	}
	defer models.Close()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- models.Run(running) }()
	head, err := log.Head(ctx)
	if err == nil {
		report(Step{Message: "letting the read models catch up with the log"})
		err = models.WaitFor(ctx, uint64(head))
	}
	var last Step
	if err == nil {
		if what == "rebuild" {
			last = rebuild(ctx, models, names, report)
		} else if last, err = verifyStoppedLog(ctx, log, path, report); err == nil && !last.Failed {
			report(last)
			last = verify(ctx, models, report)
		}
	}
	stop()
	return last, errors.Join(err, ignoreCanceled(<-ended))
}
