//! Memory for packed weights and scratch: aligned to cache lines, and on huge pages where the system has them.

use std::io;

use memmap2::MmapMut;

/// A cache line, which is also the widest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

/// Scratch memory that grows and never shrinks. What it holds between two uses is unspecified.
#[derive(Default)]
pub(super) struct Scratch {
    lines: Vec<Line>,
}

impl Scratch {
    /// At least `count` f32, aligned to 64 bytes, with unspecified values.
    pub(super) fn floats(&mut self, count: usize) -> *mut f32 {
        self.bytes(count * size_of::<f32>()).cast()
    }

    /// At least `count` bytes, aligned to 64 bytes, with unspecified values.
    pub(super) fn bytes(&mut self, count: usize) -> *mut u8 {
        let lines = count.div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.lines.as_mut_ptr().cast()
    }
}

/// Memory for a matrix that stays, zeroed at first.
pub(super) struct Weights {
    map: MmapMut,
}

impl Weights {
    pub(super) fn zeroed(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        // A request that the system may ignore: the weights are streamed through, and with pages of 4 KB every tenth
        // microsecond of it is address translation. Miri doesn't know the call.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map })
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("bytes", &self.map.len()).finish()
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("bytes", &(self.lines.len() * size_of::<Line>())).finish()
    }
}
