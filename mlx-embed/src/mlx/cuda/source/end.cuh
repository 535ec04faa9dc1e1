// The end of a product: what follows it (after.cuh), for tokens whose sums lie in shared memory. A block has OUTPUTS, and a
// warp ends every WARPS-th of its tokens, BATCH of them at once: step by step for all of them, as one alone would wait for
// each of its steps.

template <int OUTPUTS, int WARPS, int BATCH>
struct End {
  const After& after;
  const int tokens, n, inputs, first_output, first_token;
  const int lane;

#if AFTER == 0
  static constexpr int HEADS = OUTPUTS / HEAD_DIM;
  static_assert(HEADS >= 1, "a block has whole heads");
  float turns[BATCH][2 * PAIRS];
#elif AFTER == 1
  static constexpr int EACH = (OUTPUTS + 31) / 32;  // outputs of a lane
  float before[BATCH][EACH], scales[EACH];
#else
  static constexpr int EACH = (OUTPUTS + 63) / 64;  // columns of a lane, or pairs of outputs
#endif
#if AFTER == 0 || AFTER == 2
  float squares[BATCH][2];  // where OF_F16, the first is what the row is multiplied with
#endif

  // Asks memory for what the tokens from the block's `first` on need.
  __device__ __forceinline__ void ask(int first) {
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      const int token = min(first_token + first + i * WARPS, tokens - 1);
#if AFTER == 1
#pragma unroll
      for (int j = 0; j < EACH; ++j)
        before[i][j] = to_float(after.x[(u64)token * n + min(first_output + lane + 32 * j, n - 1)]);
#elif AFTER != 3
#if OF_F16
      squares[i][0] = after.scales[token];
#else
#pragma unroll
      for (int j = 0; j < 2; ++j)
        squares[i][j] = lane + 32 * j < after.parts ? after.squares[token * after.parts + lane + 32 * j] : 0.f;
#endif
#if AFTER == 0
#pragma unroll
      for (int j = 0; j < 2 * PAIRS; ++j)
        turns[i][j] = after.angles[token * HEAD_DIM + (j & 1) * (HEAD_DIM / 2) + lane + j / 2 * 32];
#endif
#endif
    }
  }

  // The same for a warp's first tokens.
  __device__ __forceinline__ void begin(int first) {
#if AFTER == 1 && !OF_F16
#pragma unroll
    for (int i = 0; i < EACH; ++i) scales[i] = after.scale[min(first_output + lane + 32 * i, n - 1)];
#endif
    ask(first);
  }

  static __device__ __forceinline__ void warp_sums(float (&x)[BATCH]) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
#pragma unroll
      for (int i = 0; i < BATCH; ++i) x[i] += __shfl_xor_sync(0xffffffffu, x[i], step);
  }

  // Ends the block's tokens from `first` on, up to `last`; `total(token, output)` is a sum, both counted from the block's.
  template <class Total>
  __device__ __forceinline__ void run(int first, int last, Total total) {
    const int most = min(last, tokens - first_token) - 1;
    for (int at = first; at <= most; at += BATCH * WARPS) {
      if (at != first) ask(at);
      // Those that aren't there are computed as the last is: branches would keep all of them from running side by side.
      int local[BATCH];
      bool there[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        local[i] = min(at + i * WARPS, most);
        there[i] = at + i * WARPS <= most;
      }
#if AFTER == 0 || AFTER == 2
      float norm[BATCH];
#if OF_F16
#pragma unroll
      for (int i = 0; i < BATCH; ++i) norm[i] = squares[i][0] * after.factor;
#else
#pragma unroll
      for (int i = 0; i < BATCH; ++i) norm[i] = squares[i][0] + squares[i][1];
      for (int j = lane + 64; j < after.parts; j += 32)
#pragma unroll
        for (int i = 0; i < BATCH; ++i) norm[i] += after.squares[(first_token + local[i]) * after.parts + j];
      warp_sums(norm);
#pragma unroll
      for (int i = 0; i < BATCH; ++i) norm[i] = rsqrtf(norm[i] / inputs + after.eps);
#endif
#endif
#if AFTER == 0
#pragma unroll
      for (int part = 0; part < HEADS; ++part) {
        const int head = first_output / HEAD_DIM + part, from = head * HEAD_DIM;
        if (from >= n) break;
        Head values[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
#pragma unroll
          for (int j = 0; j < 2 * PAIRS; ++j) {
            const int element = j & 1 ? Head::second(lane, j / 2) : Head::first(lane, j / 2);
            values[i].x[j] = total(local[i], part * HEAD_DIM + element) * norm[i];
            if (HAS_BIAS) values[i].x[j] += after.bias[from + element];
          }
        if (head < after.rotated_heads) {
          if (HAS_HEAD_NORMS) {
            const float* weight = after.head_norm + (head < after.query_heads ? 0 : HEAD_DIM);
            float of_head[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; ++i) of_head[i] = values[i].squares(lane);
            warp_sums(of_head);
#pragma unroll
            for (int i = 0; i < BATCH; ++i)
              values[i].scale(weight, rsqrtf(of_head[i] / HEAD_DIM + after.head_eps), lane);
          }
#pragma unroll
          for (int i = 0; i < BATCH; ++i) values[i].rotate(turns[i]);
        }
#if OF_F16
#pragma unroll
        for (int i = 0; i < BATCH; ++i) values[i].scale<false>(nullptr, after.shift, lane);
#endif
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
          if (there[i]) values[i].write(after.out + (u64)(first_token + local[i]) * after.width + from, lane);
      }
#elif AFTER == 1 && OF_F16
#pragma unroll
      for (int i = 0; i < BATCH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
          const int output = lane + 32 * j, to = first_output + output;
          if (there[i] && output < OUTPUTS && to < n)
            after.out[(u64)(first_token + local[i]) * n + to] = before[i][j] + total(local[i], output) * after.factor;
        }
#elif AFTER == 1
      float square[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; ++i) {
        square[i] = 0.f;
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
          const int output = lane + 32 * j, to = first_output + output;
          if (output < OUTPUTS && to < n) {
            const u64 place = (u64)(first_token + local[i]) * n + to;
            const float y = round_bf16(before[i][j] + total(local[i], output));
            if (there[i]) after.out[place] = to_bf16(y), after.scaled[place] = to_bf16(y * scales[j]);
            square[i] += y * y;
          }
        }
      }
      warp_sums(square);
#pragma unroll
      for (int i = 0; i < BATCH; ++i)
        if (there[i] && lane == 0) after.own_squares[(first_token + local[i]) * gridDim.x + blockIdx.x] = square[i];
#elif AFTER == 2
#pragma unroll
      for (int i = 0; i < BATCH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
          const int column = lane + 32 * j, gate_at = column / 8 * 16 + column % 8;
          if (gate_at < OUTPUTS && first_output + gate_at < n) {
            const float gate = total(local[i], gate_at) * norm[i], up = total(local[i], gate_at + 8) * norm[i];
            const Number y = to_number(activation<ACTIVATION>(gate) * (OF_F16 ? up * after.shift : up));
            if (there[i]) after.out[(u64)(first_token + local[i]) * (n / 2) + first_output / 2 + column] = y;
          }
        }
#else
#pragma unroll
      for (int i = 0; i < BATCH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
          const int output = 2 * (lane + 32 * j);
          if (there[i] && output < OUTPUTS && first_output + output < n) {
            Number* const to = after.out + (u64)(first_token + local[i]) * after.width + first_output + output;
            const float first = total(local[i], output), second = total(local[i], output + 1);
#if OF_F32
            *(float2*)to = make_float2(first * after.factor, second * after.factor);
#else
            *(u32*)to = pair(first, second);
#endif
          }
        }
#endif
    }
  }
};
