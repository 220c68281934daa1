package containers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// conmonGroup is the control group of all monitors: outside the agent's, so that nothing that ends the agent ends them.
const conmonGroup = "conmon"

// conmon starts the monitor of a container, which has the OCI runtime create it and then stays: it keeps the log, the
// terminal, the attach socket and, in the end, the exit code. It returns the process id of the container's first process,
// which waits for release.
func (r *Runtime) conmon(ctx context.Context, st Status, c *corev1.Container) (int, error) {
	bundle := r.bundle(st.ID)
	args := []string{
		"--bundle", bundle, "--cid", st.ID, "--cuuid", st.ID, "--name", st.Name, "--runtime", r.cfg.RuntimePath,
		"--runtime-arg", "--root=" + r.ociRoot(), "--container-pidfile", filepath.Join(bundle, "pid"),
		"--conmon-pidfile", filepath.Join(bundle, "conmon.pid"), "--exit-dir", r.exitsDir(), "--persist-dir", bundle,
		"--log-path", "k8s-file:" + st.LogPath, "--log-level", "error", "--full-attach", "--no-sync-log", "--no-new-keyring",
	}
	if c.TTY {
		args = append(args, "--terminal")
	}
	if c.Stdin {
		args = append(args, "--stdin")
		if !c.StdinOnce {
			args = append(args, "--leave-stdin-open")
		}
	}
	sync, syncW, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("starting conmon: %w", err)
	}
	defer func() { _ = sync.Close() }()
	startR, startW, err := os.Pipe()
	if err != nil {
		_ = syncW.Close()
		return 0, fmt.Errorf("starting conmon: %w", err)
	}
	defer func() { _ = startW.Close() }()
	cmd := exec.Command(r.cfg.ConmonPath, args...) // not bound to the context: it is to outlive us
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4")
	cmd.ExtraFiles = []*os.File{syncW, startR}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = syncW.Close()
	_ = startR.Close()
	if err != nil {
		return 0, fmt.Errorf("starting conmon: %w", err)
	}
	if err := r.cgroups.join(conmonGroup, cmd.Process.Pid); err != nil {
		r.log.Warn("conmon stays in the agent's control group", "error", err)
	}
	if _, err := startW.Write([]byte{0}); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 0, fmt.Errorf("starting conmon: %w", err)
	}
	_ = startW.Close()
	type answer struct {
		pid int
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		pid, err := readCreated(sync)
		answers <- answer{pid, err}
	}()
	waitErr := cmd.Wait() // its first process only forks
	select {
	case a := <-answers:
		if a.err != nil && waitErr != nil {
			return 0, errors.Join(a.err, fmt.Errorf("conmon: %w", waitErr))
		}
		return a.pid, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the container to be created: %w", ctx.Err())
	}
}

// readCreated reads conmon's report: the process id of the container, or what went wrong.
func readCreated(sync *os.File) (int, error) {
	line, err := bufio.NewReader(sync).ReadString('\n')
	if err != nil && line == "" {
		return 0, fmt.Errorf("conmon ended without a word: %w", err)
	}
	var report struct {
		Pid     *int   `json:"pid"`
		Data    *int   `json:"data"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(line), &report); err != nil {
		return 0, fmt.Errorf("reading conmon's report %q: %w", line, err)
	}
	pid := report.Pid
	if pid == nil {
		pid = report.Data
	}
	if pid == nil || *pid <= 0 {
		message := cleanOCIError(report.Message)
		if message == "" {
			message = "the container could not be created"
		}
		return 0, errors.New(strings.TrimSpace(message))
	}
	return *pid, nil
}
