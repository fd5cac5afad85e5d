//! Memory that a process on CPU may still use: what control groups leave, else what the machine has. I/O: reads small
//! files of the kernel, below paths that tests replace.
//!
//! Page cache that the kernel drops on demand (`inactive_file`) counts as free: reading weights fills it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DeviceMemory, EngineError};

/// Limits above this mean none: version 1 writes the largest page-aligned number for "unlimited".
const UNLIMITED: u64 = 1 << 60;

/// Where the kernel's files are.
#[derive(Clone, Debug)]
pub struct MemoryFiles {
    /// Mount point of the control groups.
    pub cgroup_root: PathBuf,
    /// The process's own groups.
    pub own_cgroups: PathBuf,
    /// The machine's memory.
    pub machine: PathBuf,
}

impl Default for MemoryFiles {
    fn default() -> Self {
        Self {
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            own_cgroups: PathBuf::from("/proc/self/cgroup"),
            machine: PathBuf::from("/proc/meminfo"),
        }
    }
}

/// Limit and free bytes of one level of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    limit: u64,
    free: u64,
}

/// File names of a version of the memory controller.
struct Controller {
    limits: &'static [&'static str],
    usage: &'static str,
    reclaimable: &'static str,
}

const VERSION_2: Controller =
    Controller { limits: &["memory.max", "memory.high"], usage: "memory.current", reclaimable: "inactive_file" };
const VERSION_1: Controller = Controller {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

impl MemoryFiles {
    /// Free and total memory: the least of the machine's and of every control group above this process.
    pub fn read(&self) -> Result<DeviceMemory, EngineError> {
        let machine = fs::read_to_string(&self.machine).ok().and_then(|text| machine_level(&text));
        let levels: Vec<Level> = machine.into_iter().chain(self.cgroup_levels()).collect();
        let free = levels.iter().map(|level| level.free).min();
        let total = levels.iter().map(|level| level.limit).min();
        match (free, total) {
            (Some(free_bytes), Some(total_bytes)) => {
                Ok(DeviceMemory { device: "cpu".to_owned(), free_bytes, total_bytes })
            }
            _ => Err(EngineError::Failed {
                message: format!("no memory figures in {} nor in a control group", self.machine.display()),
            }),
        }
    }

    fn cgroup_levels(&self) -> Vec<Level> {
        let own = fs::read_to_string(&self.own_cgroups).unwrap_or_default();
        let mut levels = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                levels.extend(levels_up(&self.cgroup_root, path, &VERSION_2));
                levels.extend(levels_up(&self.cgroup_root.join("unified"), path, &VERSION_2));
            } else if controllers.split(',').any(|controller| controller == "memory") {
                levels.extend(levels_up(&self.cgroup_root.join("memory"), path, &VERSION_1));
            }
        }
        levels
    }
}

/// All levels from a group up to its root. A container often sees its own group as the root, under a path of the host:
/// missing folders are skipped.
fn levels_up(root: &Path, path: &str, controller: &Controller) -> Vec<Level> {
    let relative = path.trim_start_matches('/');
    if relative.split('/').any(|part| part == "..") {
        return read_level(root, controller).into_iter().collect();
    }
    let group = root.join(relative);
    group
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| read_level(folder, controller))
        .collect()
}

fn read_level(folder: &Path, controller: &Controller) -> Option<Level> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let limit = controller.limits.iter().filter_map(|file| parse_limit(&read(file)?)).min()?;
    let usage: u64 = read(controller.usage)?.trim().parse().ok()?;
    let reclaimable = read("memory.stat").and_then(|text| field(&text, controller.reclaimable)).unwrap_or(0);
    let used = usage.saturating_sub(reclaimable);
    Some(Level { limit, free: limit.saturating_sub(used) })
}

/// A limit in bytes; `max`, or version 1's largest number, is none.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

/// The number behind a name, in lines of `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn machine_level(text: &str) -> Option<Level> {
    let kilobytes = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok())
    };
    Some(Level { limit: kilobytes("MemTotal:")? * 1024, free: kilobytes("MemAvailable:")? * 1024 })
}

/// Largest piece of memory that the C library takes from its arenas; larger ones it takes from the system and hands
/// back as soon as they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGEST_ARENA_PIECE: libc::c_int = 1 << 20;

/// Free memory at an arena's end above which it goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_FREE_BYTES: libc::c_int = 2 << 20;

/// Makes the C library keep little of what is freed, so that a process holds about what a model was predicted to take.
///
/// - Few arenas: it makes one for nearly every thread otherwise, each load of a model starts several threads, and every
///   arena keeps fragments that cannot be handed back: some hundred kilobytes for each load.
/// - Large pieces come from the system: by its own rule the limit grows to 32 MB, below which freed weights and vectors
///   of a batch leave holes in the arenas, a quarter of the predicted memory and growing with the first requests.
pub(crate) fn keep_little_of_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "glibc offers no other way; the calls take no pointers")]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_ARENA_PIECE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES);
        }
    }
}

/// Hands freed memory back to the system: the C library keeps it for later allocations otherwise.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "glibc offers no other way; the call takes no pointer and locks its own arenas")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n";

    struct Kernel(tempfile::TempDir);

    impl Kernel {
        fn new(own_cgroups: &str) -> Self {
            let kernel = Self(tempfile::tempdir().unwrap());
            kernel.write("self_cgroup", own_cgroups).write("meminfo", MACHINE)
        }

        fn write(self, path: &str, content: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            self
        }

        fn group(self, path: &str, files: &[(&str, &str)]) -> Self {
            files.iter().fold(self, |kernel, (file, content)| kernel.write(&format!("cgroup/{path}/{file}"), content))
        }

        fn read(&self) -> Result<DeviceMemory, EngineError> {
            let root = self.0.path();
            MemoryFiles {
                cgroup_root: root.join("cgroup"),
                own_cgroups: root.join("self_cgroup"),
                machine: root.join("meminfo"),
            }
            .read()
        }

        /// Free and total bytes.
        fn figures(&self) -> (u64, u64) {
            let memory = self.read().unwrap();
            assert_eq!(memory.device, "cpu");
            (memory.free_bytes, memory.total_bytes)
        }
    }

    #[test]
    fn without_a_limit_the_machine_decides() {
        let machine = (12_000_000 * 1024, 16_000_000 * 1024);
        assert_eq!(Kernel::new("").figures(), machine);
        let unlimited = Kernel::new("0::/\n").group("", &[("memory.max", "max\n"), ("memory.current", "5\n")]);
        assert_eq!(unlimited.figures(), machine);
        let old = Kernel::new("4:memory:/\n")
            .group("memory", &[("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "5\n")]);
        assert_eq!(old.figures(), machine);
    }

    #[test]
    fn a_limit_of_version_2_leaves_what_is_not_used_with_inactive_page_cache_free() {
        let kernel = Kernel::new("0::/pod/container\n").group(
            "pod/container",
            &[
                ("memory.max", "1000000"),
                ("memory.high", "max"),
                ("memory.current", "700000"),
                ("memory.stat", "anon 300000\nfile 400000\ninactive_file 350000\nactive_file 50000\n"),
            ],
        );
        assert_eq!(kernel.figures(), (650_000, 1_000_000));
    }

    #[test]
    fn the_throttling_limit_counts_too() {
        let kernel = Kernel::new("0::/a\n")
            .group("a", &[("memory.max", "1000000"), ("memory.high", "800000"), ("memory.current", "100000")]);
        assert_eq!(kernel.figures(), (700_000, 800_000));
    }

    #[test]
    fn the_tightest_group_on_the_way_up_decides() {
        let kernel = Kernel::new("0::/pod/container\n")
            .group("pod/container", &[("memory.max", "max"), ("memory.current", "100")])
            .group("pod", &[("memory.max", "5000"), ("memory.current", "4000")])
            .group("", &[("memory.max", "9000"), ("memory.current", "4500")]);
        assert_eq!(kernel.figures(), (1_000, 5_000));
    }

    #[test]
    fn a_container_that_sees_its_own_group_as_the_root_reads_it() {
        let kernel =
            Kernel::new("0::/kubepods/pod7/abc\n").group("", &[("memory.max", "4096"), ("memory.current", "96")]);
        assert_eq!(kernel.figures(), (4_000, 4_096));
        let outside = Kernel::new("0::/../other\n").group("", &[("memory.max", "4096"), ("memory.current", "96")]);
        assert_eq!(outside.figures(), (4_000, 4_096));
    }

    #[test]
    fn a_limit_of_version_1_is_read() {
        let kernel = Kernel::new("9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n").group(
            "memory/docker/abc",
            &[
                ("memory.limit_in_bytes", "2000000\n"),
                ("memory.usage_in_bytes", "1500000\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 500000\n"),
            ],
        );
        assert_eq!(kernel.figures(), (1_000_000, 2_000_000));
    }

    #[test]
    fn a_group_over_its_limit_has_nothing_free() {
        let kernel = Kernel::new("0::/\n").group("", &[("memory.max", "100"), ("memory.current", "200")]);
        assert_eq!(kernel.figures(), (0, 100));
    }

    #[test]
    fn garbage_is_skipped_and_nothing_at_all_is_an_error() {
        let kernel = Kernel::new("garbage\n::\n0::/a\n").group("a", &[("memory.max", "many"), ("memory.current", "1")]);
        assert_eq!(kernel.figures(), (12_000_000 * 1024, 16_000_000 * 1024));
        let error = Kernel::new("").write("meminfo", "nothing").read().unwrap_err().to_string();
        assert!(error.contains("no memory figures in"), "{error}");
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = MemoryFiles::default().read().unwrap();
        assert!(memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes, "{memory:?}");
    }
}
