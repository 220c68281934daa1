package containers

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// Mount makes a file or directory of the host visible in a container.
type Mount struct {
	HostPath      string
	ContainerPath string
	ReadOnly      bool
	Propagation   corev1.MountPropagationMode // "" is None
	// Recursive makes mounts below a read-only mount read-only too.
	RecursiveReadOnly bool
}

// Namespaces are the paths of the namespaces that a container joins; an empty one is the host's, except PID, where empty is
// one of its own unless HostPID is set.
type Namespaces struct {
	Network, IPC, UTS, PID string
	HostPID                bool
}

// SpecInput is all that a container's OCI configuration is made of.
type SpecInput struct {
	ID        string
	Pod       *corev1.Pod
	Container *corev1.Container
	Image     *v1.ConfigFile
	User      User // see ResolveUser; runAsUser and runAsGroup already looked at by SpecUser
	// Env in order: what the kubelet's rules give (service variables, envFrom, env). The image's come first, these win.
	Env         []corev1.EnvVar
	Mounts      []Mount
	Devices     []specs.LinuxDevice // of the host, for privileged containers
	Namespaces  Namespaces
	Hostname    string
	CgroupsPath string
	RootPath    string
	NodeMemory  int64 // bytes
	// OOMFloor is the lowest oom_score_adj that this agent may give.
	OOMFloor     int
	Seccomp      *specs.LinuxSeccomp
	Attempt      int
	CgroupV2     bool
	Capabilities []string // that this kernel knows and the agent has; all that a privileged container gets
}

// Spec returns the OCI configuration of a container. It is a function of its input alone.
func Spec(in SpecInput) (*specs.Spec, error) {
	c := in.Container
	sc := effective(in.Pod, c)
	env := environment(in)
	args, err := command(c, in.Image, env)
	if err != nil {
		return nil, err
	}
	cwd := in.Image.Config.WorkingDir
	if c.WorkingDir != "" {
		cwd = c.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	user := specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: groups(in)}
	adj := max(oomScoreAdj(in.Pod, c, QOSClass(in.Pod), in.NodeMemory), in.OOMFloor)
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: in.RootPath, Readonly: sc.readOnly},
		Process: &specs.Process{
			Terminal: c.TTY, User: user, Args: args, Env: env, Cwd: path.Clean(cwd),
			Capabilities: capabilities(sc, user, in.Capabilities), NoNewPrivileges: sc.noNewPrivileges, OOMScoreAdj: &adj,
		},
		Mounts: append(systemMounts(in, sc), podMounts(in)...),
		Annotations: map[string]string{
			"io.kubernetes.cri.container-type":    "container",
			"io.kubernetes.cri.container-name":    c.Name,
			"io.kubernetes.cri.sandbox-id":        string(in.Pod.UID),
			"io.kubernetes.cri.sandbox-name":      in.Pod.Name,
			"io.kubernetes.cri.sandbox-uid":       string(in.Pod.UID),
			"io.kubernetes.cri.image-name":        c.Image,
			"io.shiplog.container.attempt":        fmt.Sprint(in.Attempt),
			"io.kubernetes.cri.sandbox-namespace": in.Pod.Namespace,
		},
		Linux: &specs.Linux{
			Namespaces: namespaces(in.Namespaces, in.CgroupV2), CgroupsPath: in.CgroupsPath,
			Resources: containerResources(c), RootfsPropagation: propagation(in.Mounts),
		},
	}
	s.Linux.Resources.Devices = deviceRules(sc)
	if sc.privileged {
		s.Linux.Devices = in.Devices
	} else {
		if !sc.unmaskedProc {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths(), readonlyPaths()
		}
		s.Linux.Seccomp = in.Seccomp
	}
	return s, nil
}

// security is what a container's and its pod's security contexts come to.
type security struct {
	privileged, readOnly, noNewPrivileges, unmaskedProc bool
	add, drop                                           []corev1.Capability
}

func effective(pod *corev1.Pod, c *corev1.Container) security {
	var s security
	sc := c.SecurityContext
	if sc == nil {
		return s
	}
	s.privileged = isTrue(sc.Privileged)
	s.readOnly = isTrue(sc.ReadOnlyRootFilesystem)
	s.noNewPrivileges = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && !s.privileged
	s.unmaskedProc = sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount
	if sc.Capabilities != nil {
		s.add, s.drop = sc.Capabilities.Add, sc.Capabilities.Drop
	}
	return s
}

func isTrue(b *bool) bool { return b != nil && *b }

// SeccompProfile returns the profile that applies to a container; nil is Unconfined.
func SeccompProfile(pod *corev1.Pod, c *corev1.Container) *corev1.SeccompProfile {
	if c.SecurityContext != nil && c.SecurityContext.SeccompProfile != nil {
		return c.SecurityContext.SeccompProfile
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.SeccompProfile
	}
	return nil
}

// environment joins the image's variables and the container's; of one name the later wins and keeps the place of the first.
func environment(in SpecInput) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	set := func(name, value string) {
		for i, e := range env {
			if strings.HasPrefix(e, name+"=") {
				env[i] = name + "=" + value
				return
			}
		}
		env = append(env, name+"="+value)
	}
	set("HOSTNAME", in.Hostname)
	if in.Container.TTY {
		set("TERM", "xterm")
	}
	for _, e := range in.Image.Config.Env {
		name, value, _ := strings.Cut(e, "=")
		set(name, value)
	}
	for _, e := range in.Env {
		set(e.Name, e.Value)
	}
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		home := in.User.Home
		if home == "" {
			home = "/"
		}
		env = append(env, "HOME="+home)
	}
	return env
}

// command follows the rules that the documentation has in a table: command replaces the image's entrypoint and drops its
// arguments, args replace the image's arguments.
func command(c *corev1.Container, image *v1.ConfigFile, env []string) ([]string, error) {
	var args []string
	switch {
	case len(c.Command) > 0:
		args = append(expandAll(c.Command, env), expandAll(c.Args, env)...)
	case len(c.Args) > 0:
		args = append(slices.Clone(image.Config.Entrypoint), expandAll(c.Args, env)...)
	default:
		args = append(slices.Clone(image.Config.Entrypoint), image.Config.Cmd...)
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("no command specified: image %s has neither entrypoint nor command: set the container's command", c.Image)
	}
	return args, nil
}

func groups(in SpecInput) []uint32 {
	var out []uint32
	add := func(g uint32) {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	psc := in.Pod.Spec.SecurityContext
	strict := psc != nil && psc.SupplementalGroupsPolicy != nil && *psc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
	add(in.User.GID)
	if !strict {
		for _, g := range in.User.Groups {
			add(g)
		}
	}
	if psc != nil {
		for _, g := range psc.SupplementalGroups {
			add(uint32(g))
		}
		if psc.FSGroup != nil {
			add(uint32(*psc.FSGroup))
		}
	}
	return out
}

// SpecUser decides who a container runs as: its runAsUser, the pod's, or the image's user; runAsNonRoot refuses root.
func SpecUser(pod *corev1.Pod, c *corev1.Container, image *v1.ConfigFile, passwd, group string) (User, error) {
	pick := func(of func(*corev1.SecurityContext) *int64, ofPod func(*corev1.PodSecurityContext) *int64) *int64 {
		if c.SecurityContext != nil && of(c.SecurityContext) != nil {
			return of(c.SecurityContext)
		}
		if pod.Spec.SecurityContext != nil {
			return ofPod(pod.Spec.SecurityContext)
		}
		return nil
	}
	uid := pick(func(s *corev1.SecurityContext) *int64 { return s.RunAsUser }, func(s *corev1.PodSecurityContext) *int64 { return s.RunAsUser })
	gid := pick(func(s *corev1.SecurityContext) *int64 { return s.RunAsGroup }, func(s *corev1.PodSecurityContext) *int64 { return s.RunAsGroup })
	spec := image.Config.User
	if uid != nil {
		spec = fmt.Sprint(*uid)
	}
	u, err := ResolveUser(spec, passwd, group)
	if err != nil {
		return User{}, fmt.Errorf("container %s: %w", c.Name, err)
	}
	if uid != nil && gid == nil && u.Name == "" && !strings.Contains(spec, ":") && !inPasswd(passwd, u.UID) {
		u.GID = 0
	}
	if gid != nil {
		u.GID = uint32(*gid)
	}
	nonRoot := false
	if pod.Spec.SecurityContext != nil {
		nonRoot = isTrue(pod.Spec.SecurityContext.RunAsNonRoot)
	}
	if c.SecurityContext != nil && c.SecurityContext.RunAsNonRoot != nil {
		nonRoot = *c.SecurityContext.RunAsNonRoot
	}
	if nonRoot && u.UID == 0 {
		return User{}, fmt.Errorf("container %s has runAsNonRoot and its image runs as root (pod: %q, container: %s): set runAsUser", c.Name, pod.Namespace+"/"+pod.Name, c.Name)
	}
	if nonRoot && uid == nil {
		if _, numeric := parseID(strings.SplitN(image.Config.User, ":", 2)[0]); !numeric {
			return User{}, fmt.Errorf("container %s has runAsNonRoot and its image has the non-numeric user %q, of which nobody can say that it is not root: set runAsUser", c.Name, image.Config.User)
		}
	}
	return u, nil
}

func inPasswd(passwd string, uid uint32) bool {
	found := false
	eachLine(passwd, 4, func(f []string) bool {
		id, ok := parseID(f[2])
		found = ok && id == uid
		return !found
	})
	return found
}

func namespaces(n Namespaces, v2 bool) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: n.Network},
		{Type: specs.IPCNamespace, Path: n.IPC},
		{Type: specs.UTSNamespace, Path: n.UTS},
	} {
		if ns.Path != "" {
			out = append(out, ns)
		}
	}
	if !n.HostPID {
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: n.PID})
	}
	if v2 {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}

func systemMounts(in SpecInput, sc security) []specs.Mount {
	readOnly := "ro"
	if sc.privileged {
		readOnly = "rw"
	}
	cgroupOptions := []string{"nosuid", "noexec", "nodev", "relatime", readOnly}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", readOnly}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroupOptions},
	}
	// What the pod mounts itself at these places wins.
	return slices.DeleteFunc(mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(in.Mounts, func(p Mount) bool { return path.Clean(p.ContainerPath) == m.Destination })
	})
}

func podMounts(in SpecInput) []specs.Mount {
	sorted := slices.Clone(in.Mounts)
	// A mount below another comes after it.
	sort.SliceStable(sorted, func(i, j int) bool {
		return strings.Count(path.Clean(sorted[i].ContainerPath), "/") < strings.Count(path.Clean(sorted[j].ContainerPath), "/")
	})
	out := make([]specs.Mount, 0, len(sorted))
	for _, m := range sorted {
		options := []string{"rbind"}
		switch m.Propagation {
		case corev1.MountPropagationBidirectional:
			options = append(options, "rshared")
		case corev1.MountPropagationHostToContainer:
			options = append(options, "rslave")
		default:
			options = append(options, "rprivate")
		}
		switch {
		case m.RecursiveReadOnly:
			options = append(options, "rro")
		case m.ReadOnly:
			options = append(options, "ro")
		default:
			options = append(options, "rw")
		}
		out = append(out, specs.Mount{Destination: m.ContainerPath, Type: "bind", Source: m.HostPath, Options: options})
	}
	return out
}

func propagation(mounts []Mount) string {
	p := ""
	for _, m := range mounts {
		switch m.Propagation {
		case corev1.MountPropagationBidirectional:
			return "rshared"
		case corev1.MountPropagationHostToContainer:
			p = "rslave"
		}
	}
	return p
}

// deviceRules let a container use the devices that every container has, and a privileged one all of them.
func deviceRules(sc security) []specs.LinuxDeviceCgroup {
	if sc.privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}} // the runtime adds those of the OCI specification
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
