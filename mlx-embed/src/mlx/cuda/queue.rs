//! Kernels that are launched at once, and the memory that they work on.

use std::any::TypeId;
use std::cell::RefCell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;
use std::rc::{Rc, Weak};

use mlx_sys as sys;

use super::arguments::{Arguments, Map};
use super::program::Program;
use super::recorder::{End, Factors, Launch, Matmul, Multiplied, Recorder, Step, Steps, Todo};
use crate::mlx::array::Array;
use crate::mlx::device::wait_without_turn;
use crate::mlx::dtype::{Dtype, Element};
use crate::mlx::error::{MlxError, check};
use crate::mlx::{Stream, memory, ops};

/// Smallest piece of memory, in bytes.
const LEAST: usize = 4096;

/// What a tensor is for. Those of one role share memory, one after the other, so that all of it is as much as the largest
/// batch so far needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Meta,
    Angles,
    Residual,
    Scaled,
    Squares,
    /// Queries, keys and values, and then what the activation makes.
    Wide,
    Mixed,
    /// Gate and up together, where the activation is a kernel of its own.
    Both,
    Dequantized,
    /// Rows of f16 that are multiplied.
    Halves,
    /// Of such rows.
    Scales,
    /// A matrix as the checkpoint stores it.
    Stored,
    Workspace,
    Rows,
    Types,
    Selected,
    Result,
    /// Of each text one row.
    Means,
    /// Rows behind pooling. The last: see [`ROLES`].
    Behind,
}

const ROLES: usize = Role::Behind as usize + 1;

/// Bytes that are copied to the GPU at once, while the host makes the next ones ready.
const PIECE: usize = 2 << 20;

/// Bytes of which weights take theirs one behind the other, and where these begin.
const CHUNK: usize = 16 << 20;
pub(super) const ALIGNMENT: usize = 256;

/// What cuBLASLt may use for itself, in bytes.
const WORKSPACE: i32 = 32 << 20;

/// A queue of launches on a GPU, ordered among themselves and not with MLX's own work.
#[derive(Debug)]
pub(super) struct Queue {
    raw: sys::mlxsys_cuda_queue,
    multiprocessors: i32,
    pool: Rc<Pool>,
    recorder: RefCell<Recorder<Graph>>,
    /// Memory that what was launched may still use.
    held: RefCell<Vec<Array>>,
    /// What is left of arrays that weights share.
    chunks: RefCell<Vec<Memory>>,
}

/// Steps that are launched as one. It belongs to its queue.
#[derive(Debug)]
struct Graph(sys::mlxsys_cuda_graph);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by the queue, which lives, and freed once.
        unsafe { sys::mlxsys_cuda_graph_free(self.0) };
    }
}

/// Memory that is not in use, by its role. It is MLX's, so that its counters know of it.
#[derive(Debug, Default)]
struct Pool([RefCell<Vec<Memory>>; ROLES]);

impl Pool {
    fn of(&self, role: Role) -> &RefCell<Vec<Memory>> {
        &self.0[role as usize]
    }

    /// Of what is not in use the first that is large enough, or else the first. Passes that ask for the same get the same,
    /// whatever ran between.
    fn take(&self, role: Role, needed: usize) -> Option<Memory> {
        let mut unused = self.of(role).borrow_mut();
        let first = (0..unused.len()).min_by_key(|&i| (unused[i].size < needed, unused[i].pointer))?;
        Some(unused.swap_remove(first))
    }
}

#[derive(Debug)]
struct Memory {
    array: Array,
    pointer: u64,
    size: usize,
}

/// A matrix in the GPU's memory, which is free for the next when it goes: what was launched before comes first.
#[derive(Debug)]
pub(crate) struct Tensor {
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    role: Role,
    pool: Weak<Pool>,
    shape: [i32; 2],
    dtype: Dtype,
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if let (Some(pool), Some(memory)) = (self.pool.upgrade(), self.memory.take()) {
            pool.of(self.role).borrow_mut().push(memory);
        }
    }
}

impl Tensor {
    pub(crate) fn shape(&self) -> [i32; 2] {
        self.shape
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn pointer(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.pointer)
    }
}

/// A loaded kernel, to be launched with `A`. It belongs to its queue.
#[derive(Debug)]
pub(super) struct Function<A> {
    raw: *mut c_void,
    threads: i32,
    shared_memory: i32,
    arguments: PhantomData<fn(&A)>,
}

impl<A> Function<A> {
    /// Of a block.
    pub(super) fn threads(&self) -> i32 {
        self.threads
    }
}

impl Queue {
    /// On the GPU with this index.
    pub(super) fn new(gpu: i32) -> Result<Self, MlxError> {
        let mut raw = sys::mlxsys_cuda_queue { ctx: std::ptr::null_mut() };
        // SAFETY: stores a new queue in `raw`.
        check("cuda_queue", unsafe { sys::mlxsys_cuda_queue_new(&mut raw, gpu) })?;
        let mut queue = Self {
            raw,
            multiprocessors: 0,
            pool: Rc::default(),
            recorder: RefCell::default(),
            held: RefCell::default(),
            chunks: RefCell::default(),
        };
        // SAFETY: a live queue; stores a number.
        check("cuda_queue", unsafe {
            sys::mlxsys_cuda_queue_multiprocessors(&mut queue.multiprocessors, queue.raw)
        })?;
        Ok(queue)
    }

    /// Of the GPU.
    pub(super) fn multiprocessors(&self) -> i32 {
        self.multiprocessors
    }

    pub(super) fn load<A: Arguments>(&self, program: &Program) -> Result<Function<A>, MlxError> {
        if program.arguments != TypeId::of::<A>() {
            let (name, arguments) = (program.name.to_string_lossy(), std::any::type_name::<A>());
            return Err(MlxError::new("cuda_queue", format!("{name} is not launched with {arguments}")));
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: a live queue, code as the compiler wrote it, a NUL-terminated name.
        let code = unsafe {
            sys::mlxsys_cuda_queue_load(
                &mut raw,
                self.raw,
                program.code.as_ptr().cast(),
                program.name.as_ptr(),
                program.shared_memory,
            )
        };
        check("cuda_queue", code)?;
        Ok(Function {
            raw,
            threads: program.threads,
            shared_memory: program.shared_memory,
            arguments: PhantomData,
        })
    }

    /// Memory for a matrix, with whatever is in it.
    pub(super) fn tensor(
        &self,
        role: Role,
        shape: [i32; 2],
        dtype: Dtype,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let elements = shape.iter().map(|&n| n.max(0) as usize).product::<usize>();
        let needed = (elements * dtype.size()).max(LEAST);
        let memory = match self.pool.take(role, needed) {
            Some(memory) if memory.size >= needed => memory,
            too_small => {
                // What was launched may still use it, and a failure of that must not be found by MLX: see `Array::drop`.
                self.synchronize()?;
                if too_small.is_some() {
                    drop(too_small);
                    // Nobody will ask MLX for memory of this size again.
                    memory::clear_cache()?;
                }
                // An eighth of room at most, so that batches which grow don't take memory each time.
                let size = needed.next_multiple_of(needed.next_power_of_two() / 16);
                let array = on_gpu(size / 4, stream)?;
                Memory { pointer: pointer(&array)?, array, size }
            }
        };
        let pool = Rc::downgrade(&self.pool);
        Ok(Tensor { memory: Some(memory), role, pool, shape, dtype })
    }

    /// # Safety
    /// With these arguments the kernel must stay within the memory that they point to, which lives until the queue has been
    /// waited for or is in tensors of this queue. It must wait for what was launched before (`after_previous` in
    /// `common.cuh`) before it touches what that does.
    pub(super) unsafe fn launch<A: Arguments>(
        &self,
        function: &Function<A>,
        arguments: &A,
        blocks: [i32; 3],
    ) -> Result<(), MlxError> {
        let step = Step::Launch(Launch {
            function: function.raw,
            blocks,
            threads: function.threads,
            shared_memory: function.shared_memory,
        });
        let mut bytes = vec![0; size_of::<A>()];
        arguments.put(&mut bytes);
        self.ask(step, &bytes)
    }

    /// From here on passes that recur are launched as one.
    pub(super) fn record(&self) {
        self.recorder.borrow_mut().set(true);
    }

    /// A pass begins, which [`Queue::read`] ends. One that failed is forgotten: what it named may be gone.
    pub(super) fn begin(&self) {
        self.recorder.borrow_mut().begin();
    }

    /// Runs a step, unless the recorder holds it back.
    fn ask(&self, step: Step, bytes: &[u8]) -> Result<(), MlxError> {
        let mut recorder = self.recorder.borrow_mut();
        if !recorder.records() {
            return self.run(&step, bytes);
        }
        match (recorder.push(step, bytes), recorder.steps()) {
            (Todo::Run(which), Some(steps)) => self.run_all(steps, which),
            (Todo::Launch(graph, which), Some(steps)) => {
                let (offset, written) = (steps.written(0..which.start).len(), steps.written(which));
                // SAFETY: a live queue and its graph, which takes so many bytes; of what its steps name the same holds as in
                // `run`.
                let code = unsafe {
                    sys::mlxsys_cuda_graph_launch(
                        recorder.graph(graph).0,
                        self.raw,
                        offset,
                        written.as_ptr().cast(),
                        written.len(),
                    )
                };
                check("cuda_graph", code)
            }
            _ => Ok(()),
        }
    }

    fn run_all(&self, steps: &Steps, which: Range<usize>) -> Result<(), MlxError> {
        steps.iter().skip(which.start).take(which.len()).try_for_each(|(step, bytes)| self.run(step, bytes))
    }

    fn run(&self, step: &Step, bytes: &[u8]) -> Result<(), MlxError> {
        // SAFETY of all: steps come from `launch`, `write`, `send` and `matmul`, whose callers promised that what they name stays
        // until the queue has been waited for. Waiting runs what was held back before.
        let code = match step {
            Step::Launch(Launch { function, blocks, threads, shared_memory }) => {
                // SAFETY: a live queue and its function, whose parameter has these bytes.
                unsafe {
                    sys::mlxsys_cuda_queue_launch(
                        self.raw,
                        *function,
                        bytes.as_ptr().cast(),
                        blocks.as_ptr(),
                        *threads,
                        *shared_memory,
                    )
                }
            }
            Step::Write { to, size } => {
                // SAFETY: there is room for the bytes, which are copied before the call returns.
                unsafe { sys::mlxsys_cuda_queue_write(self.raw, *to, bytes.as_ptr().cast(), *size) }
            }
            Step::Matmul(Matmul { of, out, out_stride, workspace }) => {
                let product = sys::mlxsys_cuda_matmul {
                    numbers: match of.numbers {
                        Multiplied::Bf16 => sys::mlxsys_cuda_numbers__MLXSYS_CUDA_BF16,
                        Multiplied::F32 => sys::mlxsys_cuda_numbers__MLXSYS_CUDA_F32,
                        Multiplied::F16 => sys::mlxsys_cuda_numbers__MLXSYS_CUDA_F16,
                    },
                    a: of.a,
                    w: of.w,
                    out: *out,
                    tokens: of.tokens,
                    outputs: of.outputs,
                    inputs: of.inputs,
                    a_stride: of.a_stride,
                    w_stride: of.w_stride,
                    out_stride: *out_stride,
                    factor: 2_f32.powi(of.exponent),
                    adds: of.adds,
                };
                // SAFETY: sizes were checked where the product was asked for.
                unsafe { sys::mlxsys_cuda_queue_matmul(self.raw, &product, *workspace, WORKSPACE as usize) }
            }
        };
        check("cuda_queue", code)
    }

    /// Runs what was held back. The pass is not one that becomes a graph.
    fn run_held_back(&self) -> Result<(), MlxError> {
        let held_back = self.recorder.borrow_mut().give_up();
        held_back.map_or(Ok(()), |(steps, which)| self.run_all(&steps, which))
    }

    /// Runs the pass that was begun to its end, if there is one. Steps that should become graphs are given back.
    fn end(&self) -> Result<Option<Steps>, MlxError> {
        let Some(End { steps, rest, recurs }) = self.recorder.borrow_mut().end() else { return Ok(None) };
        self.run_all(&steps, rest)?;
        Ok(recurs.then_some(steps))
    }

    /// Makes graphs of these steps for when they come again. Where that can't be done they go on as they are.
    fn keep(&self, steps: Steps) {
        if steps.written(0..steps.len()).len() > sys::MLXSYS_CUDA_GRAPH_WRITES as usize {
            return;
        }
        let graph = |piece: Range<usize>| Ok((piece.clone(), self.graph(&steps, piece)?));
        match steps.pieces().into_iter().map(graph).collect::<Result<_, MlxError>>() {
            Ok(pieces) => self.recorder.borrow_mut().keep(steps, pieces),
            Err(error) => {
                tracing::debug!(%error, "passes that recur are launched kernel by kernel");
                self.recorder.borrow_mut().set(false);
            }
        }
    }

    fn graph(&self, steps: &Steps, piece: Range<usize>) -> Result<Graph, MlxError> {
        let offset = steps.written(0..piece.start).len();
        // SAFETY: a live queue.
        check("cuda_graph", unsafe { sys::mlxsys_cuda_graph_begin(self.raw, offset) })?;
        let recorded = self.run_all(steps, piece);
        let mut graph = Graph(sys::mlxsys_cuda_graph { ctx: std::ptr::null_mut() });
        // SAFETY: as above; stores a graph.
        let made = check("cuda_graph", unsafe { sys::mlxsys_cuda_graph_end(&mut graph.0, self.raw) });
        recorded.and(made).map(|()| graph)
    }

    /// `a w^T`, as columns of `out` `[tokens, ..]` from `first` on.
    ///
    /// # Safety
    /// Both factors are as they are said to be, and live until the queue has been waited for or are in tensors.
    pub(super) unsafe fn matmul(
        &self,
        of: Factors,
        (out, first): (&Tensor, i32),
        stream: &Stream,
    ) -> Result<(), MlxError> {
        let Factors { numbers, tokens, outputs, .. } = of;
        let ([rows, width], dtype) =
            (out.shape(), if numbers == Multiplied::Bf16 { Dtype::Bf16 } else { Dtype::F32 });
        let columns = first >= 0 && outputs > 0 && first.checked_add(outputs).is_some_and(|end| end <= width);
        if out.dtype() != dtype || tokens != rows || !columns {
            let message = format!("{of:?} from column {first} of {:?} of {}", out.shape(), out.dtype());
            return Err(MlxError::new("cuda_queue", message));
        }
        let workspace = self.tensor(Role::Workspace, [1, WORKSPACE / 4], Dtype::U32, stream)?.pointer();
        let out = out.pointer() + (first as usize * dtype.size()) as u64;
        self.ask(Step::Matmul(Matmul { of, out, out_stride: width, workspace }), &[])
    }

    /// Gives memory that MLX freed back to the driver, which keeps it for the process otherwise.
    pub(super) fn trim(&self) -> Result<(), MlxError> {
        self.run_held_back()?;
        // SAFETY: a live queue.
        check("cuda_queue", unsafe { sys::mlxsys_cuda_queue_trim(self.raw) })
    }

    /// Waits for all that was launched.
    pub(super) fn synchronize(&self) -> Result<(), MlxError> {
        self.run_held_back()?;
        // SAFETY: a live queue.
        let code = wait_without_turn(|| unsafe { sys::mlxsys_cuda_queue_synchronize(self.raw) });
        check("cuda_queue", code)?;
        self.held.borrow_mut().clear();
        Ok(())
    }

    /// Memory of the GPU's own for weights, and where it begins. It stays until the queue has been waited for, or longer
    /// where the array is kept. Small ones share an array: to make one, MLX launches a kernel and waits for it.
    pub(super) fn room(&self, nbytes: usize, stream: &Stream) -> Result<(Array, u64), MlxError> {
        let size = nbytes.next_multiple_of(ALIGNMENT);
        if size > CHUNK / 2 {
            return self.own_room(nbytes, stream);
        }
        let mut chunks = self.chunks.borrow_mut();
        let (array, at) = match take(&mut chunks, size) {
            Some(taken) => taken,
            None => {
                let (array, pointer) = self.own_room(CHUNK, stream)?;
                chunks.push(Memory {
                    array: array.clone(),
                    pointer: pointer + size as u64,
                    size: CHUNK - size,
                });
                (array, pointer)
            }
        };
        self.held.borrow_mut().push(array.clone());
        Ok((array, at))
    }

    /// As [`Queue::room`], in an array that nothing else is in.
    pub(super) fn own_room(&self, nbytes: usize, stream: &Stream) -> Result<(Array, u64), MlxError> {
        let array = on_gpu(nbytes.div_ceil(size_of::<u32>()), stream)?;
        self.held.borrow_mut().push(array.clone());
        let at = pointer(&array)?;
        Ok((array, at))
    }

    /// What weights came through is not needed any more.
    pub(super) fn loaded(&self) -> Result<(), MlxError> {
        self.synchronize()?;
        self.chunks.take();
        self.pool.of(Role::Stored).borrow_mut().clear();
        Ok(())
    }

    /// A matrix on the GPU whose rows have `columns` numbers.
    pub(super) fn write<T: Element>(
        &self,
        role: Role,
        numbers: &[T],
        columns: i32,
        stream: &Stream,
    ) -> Result<Tensor, MlxError> {
        let rows = if columns > 0 { numbers.len() as i32 / columns } else { 0 };
        let tensor = self.tensor(role, [rows, columns], T::DTYPE, stream)?;
        let numbers = &numbers[..(rows * columns) as usize];
        // SAFETY: numbers have no bytes that mean nothing.
        let bytes = unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) };
        self.ask(Step::Write { to: tensor.pointer(), size: bytes.len() }, bytes)?;
        Ok(tensor)
    }

    /// Copies the bytes to the GPU's memory, behind what was launched.
    ///
    /// # Safety
    /// There is room for them at `to`, which lives until the queue has been waited for or is in a tensor of this queue, and
    /// which nobody else uses meanwhile.
    pub(super) unsafe fn send(&self, to: u64, bytes: &[u8]) -> Result<(), MlxError> {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            self.run(&Step::Write { to: to + (index * PIECE) as u64, size: piece.len() }, piece)?;
        }
        Ok(())
    }

    /// The numbers of a matrix of f32. The pass is over.
    pub(super) fn read(&self, tensor: &Tensor) -> Result<Vec<f32>, MlxError> {
        if tensor.dtype() != Dtype::F32 {
            return Err(MlxError::new("cuda_queue", format!("{:?} is not f32", tensor.dtype())));
        }
        let [rows, columns] = tensor.shape().map(|n| n as usize);
        self.read_f32(tensor.pointer(), rows * columns)
    }

    /// So many numbers of f32 that lie at `from`. The pass is over.
    pub(super) fn read_f32(&self, from: u64, count: usize) -> Result<Vec<f32>, MlxError> {
        let mut numbers = vec![0.0_f32; count];
        let recurs = self.end()?;
        // SAFETY: all callers have as many numbers there as there is room for.
        let code = wait_without_turn(|| unsafe {
            sys::mlxsys_cuda_queue_read(
                self.raw,
                numbers.as_mut_ptr().cast(),
                from,
                size_of_val(&numbers[..]),
            )
        });
        check("cuda_queue", code)?;
        if let Some(steps) = recurs {
            self.keep(steps);
        }
        Ok(numbers)
    }

    /// The tensor as an array of MLX's. It shares the memory, which the pool gets back when the tensor goes: evaluate
    /// what is made of the array before that.
    pub(super) fn array(&self, tensor: &Tensor, stream: &Stream) -> Result<Array, MlxError> {
        self.synchronize()?;
        let Some(memory) = &tensor.memory else {
            return Err(MlxError::new("cuda_queue", "a tensor without memory"));
        };
        let [rows, columns] = tensor.shape();
        let elements = ops::view(&memory.array, tensor.dtype(), stream)?;
        ops::reshape(&ops::slice_axis(&elements, 0, 0, rows * columns, stream)?, &[rows, columns], stream)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: a live queue. A failure was told when it was waited for, or nobody waits.
        unsafe { sys::mlxsys_cuda_queue_synchronize(self.raw) };
        self.recorder.get_mut().set(false);
        // SAFETY: made by `new` and freed once. It waits for what was launched.
        unsafe { sys::mlxsys_cuda_queue_free(self.raw) };
    }
}

/// So many bytes of the first that has as many.
fn take(chunks: &mut [Memory], size: usize) -> Option<(Array, u64)> {
    let chunk = chunks.iter_mut().find(|chunk| chunk.size >= size)?;
    let at = chunk.pointer;
    (chunk.pointer, chunk.size) = (at + size as u64, chunk.size - size);
    Some((chunk.array.clone(), at))
}

/// An array of so many u32 in the GPU's own memory.
pub(super) fn on_gpu(words: usize, stream: &Stream) -> Result<Array, MlxError> {
    let words =
        i32::try_from(words).map_err(|_| MlxError::new("cuda_queue", "too much memory for an array"))?;
    let zero = Array::from_slice(&[0_u32], &[1])?;
    let array = ops::contiguous(&ops::broadcast_to(&zero, &[words], stream)?, stream)?;
    array.eval()?;
    Ok(array)
}

/// The matrix bf16 `[rows, columns]` at `matrix` as Hopper copies tiles of `tile_rows` by 64 of it.
pub(super) fn tiles(matrix: u64, [rows, columns]: [i32; 2], tile_rows: i32) -> Result<Map, MlxError> {
    let mut map = Map::default();
    let tiles = sys::mlxsys_cuda_tiles { matrix, rows, columns, tile_rows };
    // SAFETY: room for 16 words at a multiple of 64 bytes; it only describes memory.
    check("cuda_queue", unsafe { sys::mlxsys_cuda_tiles_encode(map.0.as_mut_ptr(), &tiles) })?;
    Ok(map)
}

/// Where the GPU finds an evaluated array.
pub(super) fn pointer(array: &Array) -> Result<u64, MlxError> {
    let mut pointer = 0;
    // SAFETY: a live array.
    check("cuda_array_pointer", unsafe { sys::mlxsys_cuda_array_pointer(&mut pointer, array.raw()) })?;
    Ok(pointer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_of_a_chunk_is_its_own() {
        let memory =
            |pointer, size| Memory { array: Array::from_slice(&[0_u32], &[1]).unwrap(), pointer, size };
        let mut chunks = vec![memory(1000, 300), memory(5000, 1000)];
        let mut taken = |size| take(&mut chunks, size).map(|(_, at)| at);
        assert_eq!(
            [100, 900, 200, 100, 1, 0].map(&mut taken),
            [Some(1000), Some(5000), Some(1100), Some(5900), None, Some(1300)]
        );
    }
}
