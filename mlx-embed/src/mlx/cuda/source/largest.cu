// The largest numbers of each text's rows.

struct Arguments {
  const Number* x;      // [T, N]
  const float* scales;  // [T], of f32
  const int* texts;     // [texts, 2], as in texts.cuh
  float* out;           // [texts, N]
  int columns;          // N
};

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const __grid_constant__ Arguments p) {
  next_may_start();
  after_previous();
  const Column column(p.texts);
  const float none = __uint_as_float(0xff800000u);  // -infinity
  const float* scales = OF_F32 ? p.scales : nullptr;
  auto larger = [](float a, float b) { return fmaxf(a, b); };
  column.write(p.out, p.columns, column.joined(p.x, p.columns, none, larger, scales));
}
