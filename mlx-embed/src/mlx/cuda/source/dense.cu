// y = a W^T with W of MULTIPLIED, for many tokens on Hopper, and what follows it in the layer.
//
// Tiles of ROWS tokens and OUTPUTS outputs. Two warpgroups take turns: while one multiplies, the other ends its tile. A
// third copies parts of `a` and W ahead through STAGES buffers. Blocks stay and take one tile after the other.
//
// AFTER says what follows: see after.cuh. A thread has two tokens' numbers of every eight outputs, so that what belongs together (a
// head, a pair that rotates, gate and up) is within four threads.

constexpr int STEP = 64;  // inputs
constexpr int COMPUTING = 256, THREADS = COMPUTING + 128;
constexpr int A_BYTES = ROWS * STEP * 2, W_BYTES = OUTPUTS * STEP * 2, STAGE_BYTES = A_BYTES + W_BYTES;
constexpr int PARTS = ROWS / 64;
constexpr int EIGHTS = OUTPUTS / 8;
constexpr int RESULTS = AFTER == 2 ? EIGHTS / 2 : EIGHTS;  // eights of a row of the result
constexpr int CHUNKS = RESULTS < 8 ? RESULTS : 8;          // of them, 16 bytes each, on their way at once
constexpr int ENDS_BYTES = 16 * CHUNKS * 16;               // a warp's

static_assert(AFTER != 0 || OUTPUTS % HEAD_DIM == 0, "a tile has whole heads");

struct Arguments {
  Map a_map;  // [T, inputs], tiles of ROWS by 64
  Map w_map;  // [N, inputs], tiles of OUTPUTS by 64
  int tokens, n, inputs;
  After after;
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(const __grid_constant__ Arguments p) {
  extern __shared__ unsigned char memory_anywhere[];
  next_may_start();
  const int thread = threadIdx.x, lane = thread & 31;
  const int warp = __shfl_sync(0xffffffffu, thread >> 5, 0);
  const u32 base = (shared_address(memory_anywhere) + 1023) & ~1023u;
  const u32 ends = base + STAGES * STAGE_BYTES, full = ends + 8 * ENDS_BYTES, empty = full + 8 * STAGES;
  const u32 turns = empty + 8 * STAGES;  // of the two warpgroups
  const int tokens = p.tokens, n = p.n, inputs = p.inputs, steps = inputs / STEP;
  const int wide = (n + OUTPUTS - 1) / OUTPUTS, tiles = wide * ((tokens + ROWS - 1) / ROWS);

  if (thread == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_make(full + 8 * stage, 1);
      barrier_make(empty + 8 * stage, 1);
    }
    for (int group = 0; group < 2; ++group) barrier_make(turns + 8 * group, 4);
    barriers_made();
  }
  __syncthreads();
  after_previous();

  int stage = 0;
  u32 phase = 0;
  auto next = [&] {
    if (++stage == STAGES) stage = 0, phase ^= 1;
  };
  if (warp >= COMPUTING / 32) {
    registers_fewer<24>();
    if (thread == COMPUTING) {
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int token = tile / wide * ROWS, output = tile % wide * OUTPUTS;
        for (int step = 0; step < steps; ++step) {
          const u32 to = base + stage * STAGE_BYTES, landed = full + 8 * stage;
          barrier_wait(empty + 8 * stage, phase ^ 1);
          barrier_expect(landed, STAGE_BYTES);
          copy_tile(to, p.a_map, step * STEP, token, landed);
          copy_tile(to + A_BYTES, p.w_map, step * STEP, output, landed);
          next();
        }
      }
    }
    return;
  }

  registers_more<240>();
  const int group = warp / 4, t = lane & 3;
  const u32 own_end = ends + warp * ENDS_BYTES;
  float sums[PARTS][OUTPUTS / 2];
  // The other's tiles are skipped.
  auto skip = [&] {
    stage += steps;
    phase ^= stage / STAGES & 1;
    stage %= STAGES;
  };
  u32 turn = group ^ 1;
  if (group == 1) skip();
  for (int tile = blockIdx.x + group * gridDim.x; tile < tiles; tile += 2 * gridDim.x) {
    const int output_tile = tile % wide, first_output = output_tile * OUTPUTS;
    const int first_token = tile / wide * ROWS + (warp & 3) * 16;
    int before = 0;
    auto release = [&] {
      if (thread % 128 == 0) barrier_arrive(empty + 8 * before);
    };
    barrier_wait(turns + 8 * group, turn);
    turn ^= 1;
    for (int step = 0; step < steps; ++step) {
      barrier_wait(full + 8 * stage, phase);
      const u32 at = base + stage * STAGE_BYTES;
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < STEP / 16; ++k)
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
          wgmma(sums[part], wgmma_matrix(at + part * 64 * 128 + k * 32), wgmma_matrix(at + A_BYTES + k * 32),
                step > 0 || k > 0);
      wgmma_end();
      wgmma_wait<1>();
      if (step > 0) release();
      before = stage;
      next();
    }
    if (lane == 0) barrier_arrive(turns + 8 * (group ^ 1));
    wgmma_wait<0>();
    release();
    skip();
#pragma unroll
    for (int part = 0; part < PARTS; ++part) wgmma_done(sums[part]);

#if !(AFTER == 1 && OF_F16)
    // Where a warp's eight results `j` of a row lie on their way.
    auto place = [&](int row, int j) { return own_end + row * CHUNKS * 16 + ((j ^ (row & 7 & CHUNKS - 1)) << 4); };
    // Writes two tokens' pairs of every eight outputs, by way of shared memory, as rows of 16 bytes.
    auto write = [&](u16* to, int columns, int width, int column, int token, const u32(&pairs)[2][CHUNKS]) {
      __syncwarp();
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
          const int row = (lane >> 2) + 8 * r;
          write4(place(row, j) + t * 4, pairs[r][j]);
        }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 16 * CHUNKS / 32; ++i) {
        const int row = (i * 32 + lane) / CHUNKS, j = (i * 32 + lane) % CHUNKS;
        const uint4 eight = read16(place(row, j));
        if (token + row < tokens && column + j * 8 < columns)
          *(uint4*)(to + (u64)(token + row) * width + column + j * 8) = eight;
      }
    };
#if AFTER == 1
    // The way back.
    auto read = [&](const u16* from, int width, int column, int token, u32(&pairs)[2][CHUNKS]) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 16 * CHUNKS / 32; ++i) {
        const int row = (i * 32 + lane) / CHUNKS, j = (i * 32 + lane) % CHUNKS;
        const bool valid = token + row < tokens && column + j * 8 < width;
        const u64 at = valid ? (u64)(token + row) * width + column + j * 8 : 0;
        copy16(place(row, j), from + at, valid);
      }
      copies_end();
      copies_wait<0>();
      __syncwarp();
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
          const int row = (lane >> 2) + 8 * r;
          pairs[r][j] = read4(place(row, j) + t * 4);
        }
    };
#endif
#endif
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const int token = first_token + part * 64;
      if (token >= tokens) continue;
      auto number = [&](int r, int j, int c) -> float& { return sums[part][j * 4 + r * 2 + c]; };
      int own[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) own[r] = min(token + (lane >> 2) + 8 * r, tokens - 1);
#if AFTER != 1
      u32 pairs[2][CHUNKS];
      float norm[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#if OF_F16
        norm[r] = p.after.scales[own[r]] * p.after.factor;
#else
        float square = 0.f;
        for (int i = t; i < p.after.parts; i += 4) square += p.after.squares[own[r] * p.after.parts + i];
        norm[r] = rsqrtf(sum_of_four(square) / inputs + p.after.eps);
#endif
      }
#endif
#if AFTER == 0
      constexpr int OF_HEAD = HEAD_DIM / 8;
#pragma unroll
      for (int h = 0; h < EIGHTS / OF_HEAD; ++h) {
        const int head = first_output / HEAD_DIM + h, at = head * HEAD_DIM;
        if (at >= n) continue;
        const bool rotated = head < p.after.rotated_heads;
        const float* weight = p.after.head_norm + (head < p.after.query_heads ? 0 : HEAD_DIM);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float square = 0.f;
#pragma unroll
          for (int j = 0; j < OF_HEAD; ++j)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float& y = number(r, h * OF_HEAD + j, c);
              y *= norm[r];
              if (HAS_BIAS) y += p.after.bias[at + j * 8 + t * 2 + c];
              square += y * y;
            }
          if (rotated) {
            if (HAS_HEAD_NORMS) {
              const float head_scale = rsqrtf(sum_of_four(square) / HEAD_DIM + p.after.head_eps);
#pragma unroll
              for (int j = 0; j < OF_HEAD; ++j) {
                const float2 both = *(const float2*)(weight + j * 8 + t * 2);
                number(r, h * OF_HEAD + j, 0) *= head_scale * both.x;
                number(r, h * OF_HEAD + j, 1) *= head_scale * both.y;
              }
            }
            const float* turns = p.after.angles + own[r] * HEAD_DIM;
            auto rotate = [](float& a, float& b, float cosine, float sine) {
              const float first = a * cosine - b * sine;
              b = a * sine + b * cosine;
              a = first;
            };
#pragma unroll
            for (int j = 0; j < (TRADITIONAL ? OF_HEAD : OF_HEAD / 2); ++j) {
              if (TRADITIONAL) {
                const int i = j * 4 + t;
                rotate(number(r, h * OF_HEAD + j, 0), number(r, h * OF_HEAD + j, 1), turns[i],
                       turns[HEAD_DIM / 2 + i]);
              } else {
                const float2 cosines = *(const float2*)(turns + j * 8 + t * 2);
                const float2 sines = *(const float2*)(turns + HEAD_DIM / 2 + j * 8 + t * 2);
                const int other = h * OF_HEAD + j + OF_HEAD / 2;
                rotate(number(r, h * OF_HEAD + j, 0), number(r, other, 0), cosines.x, sines.x);
                rotate(number(r, h * OF_HEAD + j, 1), number(r, other, 1), cosines.y, sines.y);
              }
            }
          }
        }
      }
#pragma unroll
      for (int first = 0; first < RESULTS; first += CHUNKS) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int j = 0; j < CHUNKS; ++j) {
            const float shift = OF_F16 ? p.after.shift : 1.f;
            pairs[r][j] = pair_of_numbers(number(r, first + j, 0) * shift, number(r, first + j, 1) * shift);
          }
        write(p.after.out, n, p.after.width, first_output + first * 8, token, pairs);
      }
#elif AFTER == 1 && OF_F16
      // Four threads have 32 bytes of a row side by side. All that is needed of eight eights is asked for before any is written.
#pragma unroll
      for (int first = 0; first < RESULTS; first += CHUNKS) {
        float2 both[2][CHUNKS];
        auto column = [&](int j) { return first_output + (first + j) * 8 + t * 2; };
        auto inside = [&](int r, int j) { return token + (lane >> 2) + 8 * r < tokens && column(j) < n; };
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int j = 0; j < CHUNKS; ++j)
            if (inside(r, j)) both[r][j] = *(const float2*)(p.after.x + (u64)own[r] * n + column(j));
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int j = 0; j < CHUNKS; ++j)
            if (inside(r, j))
              *(float2*)(p.after.out + (u64)own[r] * n + column(j)) =
                  make_float2(both[r][j].x + number(r, first + j, 0) * p.after.factor,
                              both[r][j].y + number(r, first + j, 1) * p.after.factor);
      }
#elif AFTER == 1
      u32 pairs[2][CHUNKS];
      float square[2] = {0.f, 0.f};
#pragma unroll
      for (int first = 0; first < RESULTS; first += CHUNKS) {
        const int column = first_output + first * 8;
        read(p.after.x, n, column, token, pairs);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int j = 0; j < CHUNKS; ++j) {
            u32& both = pairs[r][j];
            both = pair(number(r, first + j, 0) + low(both), number(r, first + j, 1) + high(both));
            square[r] += low(both) * low(both) + high(both) * high(both);  // 0 beyond the last, as W and x are
          }
        write(p.after.out, n, n, column, token, pairs);
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
          const int at = column + j * 8 + t * 2;
          const float2 both = at < n ? *(const float2*)(p.after.scale + at) : make_float2(0.f, 0.f);
#pragma unroll
          for (int r = 0; r < 2; ++r)
            pairs[r][j] = pair(low(pairs[r][j]) * both.x, high(pairs[r][j]) * both.y);
        }
        write(p.after.scaled, n, n, column, token, pairs);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        square[r] = sum_of_four(square[r]);
        if (t == 0 && token + (lane >> 2) + 8 * r < tokens && first_output < n)
          p.after.own_squares[own[r] * ((n + OUTPUTS - 1) / OUTPUTS) + output_tile] = square[r];
      }
#else
#pragma unroll
      for (int first = 0; first < RESULTS; first += CHUNKS) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int j = 0; j < CHUNKS; ++j) {
            float y[2];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float gate = number(r, 2 * (first + j), c) * norm[r], up = number(r, 2 * (first + j) + 1, c) * norm[r];
              y[c] = activation<ACTIVATION>(gate) * (OF_F16 ? up * p.after.shift : up);
            }
            pairs[r][j] = pair_of_numbers(y[0], y[1]);
          }
        write(p.after.out, n / 2, n / 2, first_output / 2 + first * 8, token, pairs);
      }
#endif
    }
  }
}
