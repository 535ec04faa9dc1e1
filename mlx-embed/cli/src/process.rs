//! What the system knows about this process.

use std::fs;

/// Bytes of memory; the system may not tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resident {
    /// What the process holds now.
    pub(crate) now: u64,
    /// The most that it ever held.
    pub(crate) peak: u64,
}

impl Resident {
    /// `VmRSS` and `VmHWM`, on Linux.
    pub(crate) fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self { now: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }
}
