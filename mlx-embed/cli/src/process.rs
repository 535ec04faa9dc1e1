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

/// Whether a signal does something to this process: it was not started with the signal ignored. Where the system doesn't
/// say, the signal is left to it.
#[cfg(feature = "serve")]
pub(crate) fn heeds(signal: i32) -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 0)
}
