package postgres

import (
	"maps"
	"slices"
)

// settings are what the server is started with, for a database that holds some gigabytes at most, serves one process, and may be
// built again at any time.
func settings(socketDir string, extra map[string]string) map[string]string {
	s := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": socketDir,
		"unix_socket_permissions": "0700",

		// Small.
		"max_connections":                 "20",
		"superuser_reserved_connections":  "2",
		"shared_buffers":                  "24MB",
		"wal_buffers":                     "1MB",
		"work_mem":                        "4MB",
		"maintenance_work_mem":            "32MB",
		"max_worker_processes":            "2",
		"max_parallel_workers":            "0",
		"max_parallel_workers_per_gather": "0",
		"autovacuum_max_workers":          "1",
		"max_logical_replication_workers": "0",
		"max_wal_senders":                 "0",
		"wal_level":                       "minimal", // a COPY into a new table writes no WAL
		"max_wal_size":                    "256MB",
		"min_wal_size":                    "48MB",
		"huge_pages":                      "off",
		"jit":                             "off",

		// Durable as a whole, the last transactions excepted; see the package's documentation.
		"fsync":              "on",
		"full_page_writes":   "on",
		"synchronous_commit": "off",

		// Few wake-ups and little writing that competes with the log's fsync.
		"wal_writer_delay":             "2s",
		"wal_writer_flush_after":       "4MB",
		"bgwriter_delay":               "10s",
		"bgwriter_lru_maxpages":        "0",
		"checkpoint_timeout":           "30min",
		"checkpoint_completion_target": "0.5",
		"autovacuum_naptime":           "2min",

		"log_min_messages":              "warning",
		"log_checkpoints":               "off",
		"logging_collector":             "off",
		"log_line_prefix":               "",
		"log_statement":                 "none",
		"lc_messages":                   "C",
		"timezone":                      "UTC",
		"log_timezone":                  "UTC",
		"idle_session_timeout":          "0",
		"default_transaction_isolation": "read committed",
	}
	maps.Copy(s, extra)
	return s
}

// arguments are the server's command line.
func arguments(data, socketDir string, extra map[string]string) []string {
	s := settings(socketDir, extra)
	args := []string{"-D", data}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		args = append(args, "-c", name+"="+s[name])
	}
	return args
}
