//! Passes that recur, launched as one.
//!
//! A launch takes the host some four microseconds, so that a pass of few tokens waits for its hundred and more launches. What
//! a pass asks of its queue is therefore written down: every kernel with its arguments, every product, every place that is
//! written. What was asked in the same words some times before is a few CUDA graphs by then, of a launch each. While a pass
//! says what a graph says, its steps are held back, until all of the graph has been said; from the first that differs on, all
//! go to the queue as they come. So a graph never does anything but what was asked for, and nobody has to know which passes
//! are alike. The first graph of a pass is short, for the GPU to begin while the host still says the rest.

use std::collections::HashMap;
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// How often a pass is seen before it becomes graphs. Making them takes some 3 ms, as much as they save in thirty passes.
const SIGHTINGS: u32 = 16;

/// Passes that are graphs, half a megabyte of the GPU's memory each.
const MOST_PASSES: usize = 48;

/// Passes that are counted.
const MOST_SEEN: usize = 4096;

/// Steps from which on a graph pays, which is where a pass's first ends. Each goes on to four times as many.
const LEAST_STEPS: usize = 8;

/// Something asked of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Launch(Launch),
    /// What is written differs from pass to pass.
    Write {
        to: u64,
        size: usize,
    },
    Matmul(Matmul),
}

/// A kernel, but for its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Launch {
    /// Where the driver has it.
    pub(super) function: *mut c_void,
    pub(super) blocks: [i32; 3],
    pub(super) threads: i32,
    pub(super) shared_memory: i32,
}

/// A product by cuBLASLt; see `mlxsys_cuda_queue_matmul`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Matmul {
    pub(super) of: Factors,
    pub(super) out: u64,
    /// Outputs that lie side by side.
    pub(super) out_stride: i32,
    pub(super) workspace: u64,
}

/// `a` `[tokens, inputs]` and `w` `[outputs, inputs]`, whose rows are so many numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Factors {
    pub(super) numbers: Multiplied,
    pub(super) a: u64,
    pub(super) w: u64,
    pub(super) tokens: i32,
    pub(super) outputs: i32,
    pub(super) inputs: i32,
    pub(super) a_stride: i32,
    pub(super) w_stride: i32,
    /// The product is times two to the power of this.
    pub(super) exponent: i32,
    /// Whether it is added to what is there.
    pub(super) adds: bool,
}

/// What cuBLASLt multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Multiplied {
    Bf16,
    F32,
    /// The product is of f32.
    F16,
}

/// Steps in order, each with bytes: a kernel's arguments or what is written.
#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: Vec<(Step, Range<usize>)>,
    bytes: Vec<u8>,
}

impl Steps {
    pub(super) fn push(&mut self, step: Step, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.steps.push((step, start..self.bytes.len()));
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Step, &[u8])> {
        self.steps.iter().map(|(step, bytes)| (step, &self.bytes[bytes.clone()]))
    }

    /// What has to be the same for a step to be the same: of what is written only place and size.
    fn meant(&self, index: usize) -> Option<(&Step, &[u8])> {
        let (step, bytes) = self.steps.get(index)?;
        Some(match step {
            Step::Write { .. } => (step, &[]),
            Step::Launch(_) | Step::Matmul(_) => (step, &self.bytes[bytes.clone()]),
        })
    }

    /// What some of them write, one after the other.
    pub(super) fn written(&self, which: Range<usize>) -> Vec<u8> {
        let steps = self.iter().skip(which.start).take(which.len());
        let writes = steps.filter(|(step, _)| matches!(step, Step::Write { .. }));
        writes.flat_map(|(_, bytes)| bytes).copied().collect()
    }

    /// The pieces that become a graph each.
    pub(super) fn pieces(&self) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let (mut start, mut end) = (0, LEAST_STEPS);
        while end + LEAST_STEPS <= self.len() {
            pieces.push(start..end);
            (start, end) = (end, 4 * end);
        }
        pieces.push(start..self.len());
        pieces
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for index in 0..self.len() {
            self.meant(index).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// What the queue has to do now that a step was said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Nothing yet.
    Wait,
    /// To run these steps.
    Run(Range<usize>),
    /// To launch [`Recorder::graph`], which is these steps.
    Launch(Graph, Range<usize>),
}

/// Which of the graphs that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Graph {
    known: usize,
    piece: usize,
}

/// A pass that is over.
#[derive(Debug)]
pub(super) struct End {
    pub(super) steps: Steps,
    /// Those that have still to be run.
    pub(super) rest: Range<usize>,
    /// Whether graphs should be made of it behind that.
    pub(super) recurs: bool,
}

/// A pass on its way.
#[derive(Debug)]
struct Recording {
    steps: Steps,
    /// Steps that have been run.
    run: usize,
    /// Passes that said the same so far, and have a graph of what comes next.
    alike: Vec<usize>,
}

/// A pass that became graphs.
#[derive(Debug)]
struct Known<G> {
    steps: Steps,
    pieces: Vec<(Range<usize>, G)>,
    used: u64,
}

impl<G> Known<G> {
    /// The piece that begins with this step.
    fn piece(&self, start: usize) -> Option<usize> {
        self.pieces.iter().position(|(piece, _)| piece.start == start)
    }
}

/// Writes passes down.
#[derive(Debug)]
pub(super) struct Recorder<G> {
    recording: Option<Recording>,
    known: Vec<Known<G>>,
    seen: HashMap<u64, u32>,
    passes: u64,
    /// Whether passes are to become graphs.
    on: bool,
}

impl<G> Default for Recorder<G> {
    fn default() -> Self {
        Self { recording: None, known: Vec::new(), seen: HashMap::new(), passes: 0, on: false }
    }
}

impl<G> Recorder<G> {
    /// From here on passes become graphs, or don't any more.
    pub(super) fn set(&mut self, on: bool) {
        *self = Self { on, ..Self::default() };
    }

    /// A pass begins. One that was not ended is dropped, with what was held back of it: nobody reads its results.
    pub(super) fn begin(&mut self) {
        if self.on {
            self.passes += 1;
            let alike = (0..self.known.len()).collect();
            self.recording = Some(Recording { steps: Steps::default(), run: 0, alike });
        }
    }

    /// Whether steps are written down.
    pub(super) fn records(&self) -> bool {
        self.recording.is_some()
    }

    /// Writes a step down. Outside of a pass there is nothing to do with it here.
    pub(super) fn push(&mut self, step: Step, bytes: &[u8]) -> Todo {
        let Some(Recording { steps, run, alike }) = &mut self.recording else { return Todo::Wait };
        steps.push(step, bytes);
        let (said, start) = (steps.len(), *run);
        let known = &mut self.known;
        alike.retain(|&index| {
            known[index].piece(start).is_some() && known[index].steps.meant(said - 1) == steps.meant(said - 1)
        });
        if alike.is_empty() {
            *run = said;
            return Todo::Run(start..said);
        }
        let whole = alike.iter().find_map(|&index| {
            let piece = known[index].piece(start)?;
            (known[index].pieces[piece].0.end == said).then_some(Graph { known: index, piece })
        });
        let Some(graph) = whole else { return Todo::Wait };
        *run = said;
        known[graph.known].used = self.passes;
        Todo::Launch(graph, start..said)
    }

    /// One that [`Recorder::push`] named.
    pub(super) fn graph(&self, graph: Graph) -> &G {
        &self.known[graph.known].pieces[graph.piece].1
    }

    /// The steps of this pass.
    pub(super) fn steps(&self) -> Option<&Steps> {
        self.recording.as_ref().map(|recording| &recording.steps)
    }

    /// The pass is one that does not become graphs. What was held back of it is still to be run.
    pub(super) fn give_up(&mut self) -> Option<(Steps, Range<usize>)> {
        let Recording { steps, run, .. } = self.recording.take()?;
        let rest = run..steps.len();
        Some((steps, rest))
    }

    /// The pass is over, if there is one.
    pub(super) fn end(&mut self) -> Option<End> {
        let Recording { steps, run, alike } = self.recording.take()?;
        let graphs_only = run == steps.len() && !alike.is_empty();
        let recurs = !graphs_only && steps.len() >= LEAST_STEPS && self.count(steps.digest()) == SIGHTINGS;
        Some(End { rest: run..steps.len(), steps, recurs })
    }

    /// How often a pass has been seen.
    fn count(&mut self, pass: u64) -> u32 {
        if self.seen.len() >= MOST_SEEN && !self.seen.contains_key(&pass) {
            self.seen.clear();
        }
        let seen = self.seen.entry(pass).or_default();
        *seen = seen.saturating_add(1);
        *seen
    }

    /// Keeps the graphs of a pass's pieces, in the place of the pass that was not seen for longest.
    pub(super) fn keep(&mut self, steps: Steps, pieces: Vec<(Range<usize>, G)>) {
        if self.known.len() >= MOST_PASSES {
            let oldest = (0..self.known.len()).min_by_key(|&index| self.known[index].used);
            if let Some(index) = oldest {
                let gone = self.known.swap_remove(index);
                // It may come back.
                self.seen.remove(&gone.steps.digest());
            }
        }
        self.known.push(Known { steps, pieces, used: self.passes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(function: usize) -> Step {
        let function = std::ptr::without_provenance_mut(function);
        Step::Launch(Launch { function, blocks: [1, 1, 1], threads: 32, shared_memory: 0 })
    }

    /// A step's kernel, or 0.
    fn kernel(step: &Step) -> usize {
        match step {
            Step::Launch(launch) => launch.function.addr(),
            _ => 0,
        }
    }

    /// Runs a pass of a write and these kernels, each with its argument, and tells in which order what ran: of a graph, which
    /// is what it was made of, 1000 and the number of its steps before them. Passes that shall become graphs do.
    fn pass(recorder: &mut Recorder<Vec<usize>>, kernels: &[(usize, u8)], written: u8) -> Vec<usize> {
        let mut ran = Vec::new();
        recorder.begin();
        let steps = std::iter::once((Step::Write { to: 8, size: 1 }, written));
        for (step, byte) in steps.chain(kernels.iter().map(|&(function, byte)| (launch(function), byte))) {
            let todo = recorder.push(step, &[byte]);
            let steps = recorder.steps().unwrap();
            let all: Vec<usize> = steps.iter().map(|(step, _)| kernel(step)).collect();
            match todo {
                Todo::Wait => (),
                Todo::Run(which) => ran.extend_from_slice(&all[which]),
                Todo::Launch(graph, which) => {
                    let graph = recorder.graph(graph);
                    assert_eq!(graph[..], all[which.clone()]);
                    assert_eq!(steps.written(which.clone()), [written].repeat(usize::from(which.start == 0)));
                    ran.push(1000 + graph.len());
                    ran.extend_from_slice(graph);
                }
            }
        }
        let End { steps, rest, recurs } = recorder.end().unwrap();
        let all: Vec<usize> = steps.iter().map(|(step, _)| kernel(step)).collect();
        ran.extend_from_slice(&all[rest]);
        if recurs {
            let pieces =
                steps.pieces().into_iter().map(|piece| (piece.clone(), all[piece].to_vec())).collect();
            recorder.keep(steps, pieces);
        }
        ran
    }

    fn recorder() -> Recorder<Vec<usize>> {
        let mut recorder = Recorder::default();
        recorder.set(true);
        recorder
    }

    /// So many kernels behind the write.
    fn kernels(number: usize) -> Vec<(usize, u8)> {
        (1..=number).map(|function| (function, 1)).collect()
    }

    fn one_by_one(number: usize) -> Vec<usize> {
        (0..=number).collect()
    }

    #[test]
    fn what_recurs_becomes_graphs_whatever_is_written() {
        let mut recorder = recorder();
        for written in 0..SIGHTINGS as u8 {
            assert_eq!(pass(&mut recorder, &kernels(49), written), one_by_one(49));
        }
        let all = one_by_one(49);
        let graphs = [&[1008], &all[..8], &[1024], &all[8..32], &[1018], &all[32..]].concat();
        assert_eq!(pass(&mut recorder, &kernels(49), 77), graphs);
        assert_eq!(pass(&mut recorder, &kernels(49), 78), graphs);
    }

    #[test]
    fn pieces_are_all_steps_in_order() {
        for number in 0..300 {
            let mut steps = Steps::default();
            (0..number).for_each(|function| steps.push(launch(function), &[]));
            let pieces = steps.pieces();
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start), "{pieces:?}");
            assert_eq!((pieces[0].start, pieces.last().unwrap().end), (0, number));
            assert!(
                number < LEAST_STEPS || pieces.iter().all(|piece| piece.len() >= LEAST_STEPS),
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn what_differs_runs_step_by_step_in_order() {
        let mut recorder = recorder();
        for _ in 0..SIGHTINGS {
            pass(&mut recorder, &kernels(20), 0);
        }
        // By an argument, by a kernel, by the end, of which the graph has more or less; in the first graph and behind it.
        for place in 0..20 {
            let mut other = kernels(20);
            other[place].1 = 2;
            let ran = pass(&mut recorder, &other, 0);
            assert_eq!(ran.iter().copied().filter(|&step| step < 1000).collect::<Vec<_>>(), one_by_one(20));
            assert_eq!(ran[0] == 1008, place >= 7, "{place}");
            other = kernels(20);
            other[place].0 = 40;
            let mut expected = one_by_one(20);
            expected[place + 1] = 40;
            let ran = pass(&mut recorder, &other, 0);
            assert_eq!(ran.into_iter().filter(|&step| step < 1000).collect::<Vec<_>>(), expected);
        }
        for number in [4, 9, 19, 21, 40] {
            let ran = pass(&mut recorder, &kernels(number), 0);
            assert_eq!(ran.into_iter().filter(|&step| step < 1000).collect::<Vec<_>>(), one_by_one(number));
        }
        assert_eq!(pass(&mut recorder, &kernels(20), 0)[0], 1008);
        // Short ones stay as they are.
        for _ in 0..2 * SIGHTINGS {
            assert_eq!(pass(&mut recorder, &kernels(4), 0), one_by_one(4));
        }
    }

    #[test]
    fn a_pass_that_begins_as_another_does_becomes_graphs_too() {
        let mut recorder = recorder();
        for number in [20, 60] {
            for _ in 0..SIGHTINGS {
                let ran = pass(&mut recorder, &kernels(number), 0);
                assert_eq!(
                    ran.into_iter().filter(|&step| step < 1000).collect::<Vec<_>>(),
                    one_by_one(number)
                );
            }
        }
        let ran = pass(&mut recorder, &kernels(60), 0);
        assert_eq!(ran.iter().copied().filter(|&step| step < 1000).collect::<Vec<_>>(), one_by_one(60));
        assert_eq!(ran[0], 1008);
        assert_eq!(pass(&mut recorder, &kernels(20), 0)[9], 1013);
    }

    #[test]
    fn a_pass_that_ends_early_takes_nothing_along() {
        let mut recorder = recorder();
        for _ in 0..SIGHTINGS {
            pass(&mut recorder, &kernels(9), 0);
        }
        recorder.begin();
        assert_eq!(recorder.push(Step::Write { to: 8, size: 1 }, &[0]), Todo::Wait);
        assert_eq!(pass(&mut recorder, &kernels(9), 0)[0], 1010);
        recorder.begin();
        recorder.push(Step::Write { to: 8, size: 1 }, &[0]);
        recorder.push(launch(1), &[1]);
        let (steps, rest) = recorder.give_up().unwrap();
        assert_eq!((steps.len(), rest), (2, 0..2));
        assert!(!recorder.records() && recorder.end().is_none());
    }

    #[test]
    fn the_pass_that_was_not_seen_for_longest_goes() {
        let mut recorder = recorder();
        let nth = |n: usize| {
            kernels(8).into_iter().map(|(function, byte)| (function + 100 * n, byte)).collect::<Vec<_>>()
        };
        for n in 0..=MOST_PASSES {
            for _ in 0..SIGHTINGS {
                pass(&mut recorder, &nth(n), 0);
            }
            assert_eq!(pass(&mut recorder, &nth(0), 0)[0], 1009, "{n}");
        }
        assert_eq!(recorder.known.len(), MOST_PASSES);
        assert_eq!(pass(&mut recorder, &nth(1), 0).len(), 9, "it made room");
        assert_eq!(pass(&mut recorder, &nth(2), 0)[0], 1009);
    }

    #[test]
    fn nothing_is_written_down_unless_asked_for() {
        let mut recorder = Recorder::<usize>::default();
        recorder.begin();
        assert!(!recorder.records());
        assert_eq!(recorder.push(launch(1), &[1]), Todo::Wait);
        assert!(recorder.end().is_none() && recorder.give_up().is_none());
    }
}
