// What follows a product in the layer, by AFTER:
//   0  queries, keys and values: scaled by the token's norm, head norms, rotation. A block's outputs are a head's.
//   1  x + y, also times the next norm's weight, and the sums of its squares.
//   2  the activation of the gate times up, scaled by the token's norm; their outputs alternate eight by eight.
//   3  nothing.
struct After {
  const float* squares;  // [T, parts], of the norm of what is multiplied: after 0 and 2
  // After 0.
  const float* bias;       // [N]
  const float* head_norm;  // [2, E]
  const float* angles;     // [T, 2, E / 2]
  // After 1.
  const u16* x;        // [T, N]
  const float* scale;  // [N]
  u16* scaled;         // [T, N]
  float* own_squares;  // [T, blocks along N]
  Number* out;         // [T, width]: after 0 and 3 other matrices' outputs may lie beside
  int width, parts, query_heads, rotated_heads;
  float eps, head_eps;
  float factor;  // after 3: of f32, what the product is multiplied with
};
