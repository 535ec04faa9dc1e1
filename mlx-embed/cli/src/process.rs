//! What the system knows about this process and its processor.

use std::fs;

use serde::Serialize;

/// What the processor calls itself; the system may not tell.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Processor {
    pub(crate) name: Option<String>,
    vendor: Option<String>,
    family: Option<String>,
    model: Option<String>,
    pub(crate) cores: usize,
}

impl Processor {
    /// From `/proc/cpuinfo`, on Linux.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
        };
        Self {
            name: field("model name"),
            vendor: field("vendor_id"),
            family: field("cpu family"),
            model: field("model"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

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
