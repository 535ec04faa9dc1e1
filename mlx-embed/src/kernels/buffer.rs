//! Memory for packed weights, states and scratch: aligned to cache lines, and on huge pages where the system has them.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

impl Scratch {
    /// What [`Scratch::floats`] returned last.
    pub(super) fn start(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// Bytes that it holds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }
}

/// Memory of states between operations. It is the same memory each time, so it stays in the caches, where memory from
/// the system would come page by page.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Kept>);

/// Buffers that nobody uses.
#[derive(Default)]
struct Kept {
    buffers: Vec<Vec<Line>>,
    /// How many [`Reuse`] there are.
    passes: usize,
}

/// What one long text needed is not kept beyond its pass: lines of a buffer that is, 32 MiB.
const MOST_KEPT: usize = (32 << 20) / size_of::<Line>();

/// Buffers that are kept: a layer never uses more at once.
const KEPT: usize = 4;

impl Buffers {
    /// `len` numbers that may be anything.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let needed = (len * size_of::<f32>()).div_ceil(size_of::<Line>());
        let mut kept = self.kept();
        let Kept { buffers, .. } = &mut *kept;
        let fitting =
            (0..buffers.len()).filter(|&i| buffers[i].len() >= needed).min_by_key(|&i| buffers[i].len());
        let lines = match fitting {
            Some(index) => buffers.swap_remove(index),
            None => {
                // A smaller one would stay behind unused.
                if buffers.len() >= KEPT {
                    buffers.pop();
                }
                drop(kept);
                vec![Line([0; 64]); needed]
            }
        };
        Buffer { lines, len, home: Arc::clone(self) }
    }

    /// Keeps buffers of any size for as long as the result lives.
    pub(super) fn reuse(self: &Arc<Self>) -> Reuse {
        self.kept().passes += 1;
        Reuse(Arc::clone(self))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pass, whose layers take the same buffers one after the other.
#[derive(Debug)]
pub(crate) struct Reuse(Arc<Buffers>);

impl Drop for Reuse {
    fn drop(&mut self) {
        let mut kept = self.0.kept();
        kept.passes -= 1;
        if kept.passes == 0 {
            kept.buffers.retain(|lines| lines.len() <= MOST_KEPT);
        }
    }
}

/// Numbers in memory that goes back to [`Buffers`].
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
    home: Arc<Buffers>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.kept();
        if kept.buffers.len() < KEPT && (kept.passes > 0 || self.lines.len() <= MOST_KEPT) {
            kept.buffers.push(std::mem::take(&mut self.lines));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines hold at least `len` numbers, and any bytes are numbers.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and they are this buffer's own.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buffers")
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

/// What will be read soon, asked for in equal parts.
#[derive(Clone, Copy)]
pub(super) struct Upcoming {
    from: *const u8,
    part_bytes: usize,
}

impl Upcoming {
    /// `bytes` bytes from `from` on, in `parts` parts. Any address will do.
    #[inline(always)]
    pub(super) fn new(from: *const u8, bytes: usize, parts: usize) -> Self {
        Self { from, part_bytes: bytes.div_ceil(parts) }
    }

    /// Asks for part `part`.
    #[inline(always)]
    pub(super) fn prefetch(self, part: usize) {
        let from = self.from.wrapping_add(part * self.part_bytes);
        #[cfg(target_arch = "x86_64")]
        for line in (0..self.part_bytes).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a prefetch touches nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_the_same_memory_within_a_pass_and_given_back_after_it() {
        let buffers = Arc::<Buffers>::default();
        let large = MOST_KEPT * size_of::<Line>() / size_of::<f32>() + 1;
        let kept = || buffers.kept().buffers.iter().map(Vec::len).collect::<Vec<_>>();
        drop(buffers.take(large));
        assert_eq!(kept(), [0; 0]);
        {
            let _pass = buffers.reuse();
            let at = buffers.take(large).as_ptr();
            assert_eq!(buffers.take(large / 2).as_ptr(), at);
            drop(buffers.take(16));
            assert_eq!(kept(), [MOST_KEPT + 1]);
            drop([buffers.take(large), buffers.take(16)]);
            assert_eq!(kept(), [MOST_KEPT + 1, 1]);
        }
        assert_eq!(kept(), [1]);
    }
}
