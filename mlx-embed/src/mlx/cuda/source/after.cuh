// What follows a product in the layer, by AFTER:
//   0  queries, keys and values: scaled by the token's norm, head norms, rotation. A block's outputs are a head's.
//   1  x + y, also times the next norm's weight, and the sums of its squares.
//   2  the activation of the gate times up, scaled by the token's norm; their outputs alternate eight by eight.
//   3  nothing.
//
// Where OF_F16, the norm is a kernel of its own, which leaves rows times powers of two: 0 and 2 take these back, and 1 is x + y
// alone.
#if OF_F16 && AFTER == 1
typedef float Result;
#else
typedef Number Result;
#endif

struct After {
  const float* squares;  // [T, parts], of the norm of what is multiplied: after 0 and 2
  const float* scales;   // [T], where OF_F16: what rows are multiplied with, after 0 and 2
  // After 0.
  const float* bias;       // [N]
  const float* head_norm;  // [2, E]
  const float* angles;     // [T, 2, E / 2]
  // After 1.
  const Result* x;     // [T, N]
  const float* scale;  // [N]
  u16* scaled;         // [T, N]
  float* own_squares;  // [T, blocks along N]
  Result* out;         // [T, width]: after 0 and 3 other matrices' outputs may lie beside
  int width, parts, query_heads, rotated_heads;
  float eps, head_eps;
  float factor;  // of f32: what the product is multiplied with
  float shift;   // where OF_F16: what the result is multiplied with, after 0 and 2
};
