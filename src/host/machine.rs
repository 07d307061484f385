//! The limits of this machine, or of the cgroup of the process.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The memory of one resident key in bytes, rounded up: what `benches/memory.rs` measures, with room for long names and
/// waiting checks.
const BYTES_PER_KEY: u64 = 1024;
/// The memory of a key with its record in the memory store. The record of a `rolling_window` of twenty cells is the
/// largest.
const BYTES_PER_KEY_AND_RECORD: u64 = 4096;
/// Keys may take this part of the memory: one half.
const MEMORY_PART: u64 = 2;

/// The number of cores that this process may use.
pub fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The number of keys that the memory allows. `with_records`: their records are in the same memory.
pub fn keys(with_records: bool) -> usize {
    let each = if with_records { BYTES_PER_KEY_AND_RECORD } else { BYTES_PER_KEY };
    let memory = cgroup_memory().into_iter().chain(machine_memory()).min();
    // If neither can be read: as much as any machine has.
    let keys = memory.unwrap_or(1 << 30) / MEMORY_PART / each;
    usize::try_from(keys.max(1000)).unwrap_or(usize::MAX)
}

/// Raises the soft limit of open files to `wanted`, or as far as the hard limit allows. Returns the new limit.
pub fn files(wanted: u64) -> u64 {
    let limits = getrlimit(Resource::Nofile);
    let reach = limits.maximum.map_or(wanted, |most| wanted.min(most));
    if limits.current.is_none_or(|current| current >= reach) {
        return limits.current.unwrap_or(wanted);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(reach), ..limits }) {
        Ok(()) => reach,
        Err(_) => limits.current.unwrap_or(wanted),
    }
}

/// The name of this host.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest memory limit of the cgroups above this process, of version 1 or 2.
fn cgroup_memory() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<u64> = None;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let full = Path::new(root).join(path.trim_start_matches('/'));
        for folder in full.ancestors().take_while(|folder| folder.starts_with(root)) {
            let limit = fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}
