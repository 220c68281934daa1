package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/ops/datadir"
)

// eventStoreFile holds the connection string of the event store that keeps the cluster's log, when it is not in the data directory.
// It is what lets a stopped cluster be read, and what keeps a start that forgot --eventstore from beginning another history.
const eventStoreFile = "eventstore"

// openLog opens the log that the configuration names, and remembers where it is.
func (cp *controlPlane) openLog(ctx context.Context) error {
	recorded, err := recordedEventStore(cp.dir.Path())
	if err != nil {
		return err
	}
	if cp.EventStore == "" {
		if recorded != "" {
			return fmt.Errorf("the log of this cluster is in the event store %s: start it with --eventstore and that address (or, once the log has been copied into %s, remove %s)",
				esdb.WithoutPassword(recorded), cp.dir.Join(logDir), cp.dir.Join(eventStoreFile))
		}
		most, perr := parseBytes("log-max-bytes", cp.LogMax)
		if perr != nil {
			return perr
		}
		cp.log, err = embedded.Open(cp.dir.Join(logDir), embedded.Options{Logger: cp.logger, MaxBytes: most})
	} else {
		cp.log, err = esdb.Open(ctx, cp.EventStore, esdb.Options{Logger: cp.logger})
	}
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	cp.closeLater(func(context.Context) error { return cp.log.Close() })
	if cp.EventStore != recorded {
		return recordEventStore(cp.dir.Path(), cp.EventStore)
	}
	return nil
}

// recordedEventStore is the connection string of the event store that holds the log of a data directory; "" when the directory does.
func recordedEventStore(path string) (string, error) {
	data, err := os.ReadFile(filepath.Join(path, eventStoreFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading where the log is: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// recordEventStore writes the file anew; the connection string may hold a password, so only the owner reads it.
func recordEventStore(path, connection string) error {
	file := filepath.Join(path, eventStoreFile)
	next := file + ".new"
	if err := os.WriteFile(next, []byte(connection+"\n"), 0o600); err != nil {
		return fmt.Errorf("remembering where the log is: %w", err)
	}
	if err := os.Rename(next, file); err != nil {
		return fmt.Errorf("remembering where the log is: %w", err)
	}
	return nil
}

// OpenLog opens the log of a stopped cluster for reading, wherever it is. Close releases the directory too.
func OpenLog(path string, logger *slog.Logger) (eventstore.Log, func() error, error) {
	connection, err := recordedEventStore(path)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(path, logDir)); connection == "" && errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("the cluster of %s is not running, and its log is not in there: is it the right directory?", path)
	}
	dir, err := datadir.Open(path)
	if err != nil {
		return nil, nil, err
	}
	var log eventstore.Log
	if connection != "" {
		log, err = esdb.Open(context.Background(), connection, esdb.Options{Logger: logger})
	} else {
		log, err = embedded.Open(dir.Join(logDir), embedded.Options{ReadOnly: true, Logger: logger})
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the log: %w", err), dir.Close())
	}
	return log, func() error { return errors.Join(log.Close(), dir.Close()) }, nil
}
