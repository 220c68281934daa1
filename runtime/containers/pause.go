package containers

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// PauseMain is what the agent's binary does when it is run as "pause", on machines for which there is no small program: it
// reaps orphans and returns on SIGTERM or SIGINT. Main calls it before anything else.
func PauseMain() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for s := range signals {
		if s != unix.SIGCHLD {
			return
		}
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
