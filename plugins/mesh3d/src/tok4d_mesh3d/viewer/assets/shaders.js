// EWA splatting (Zwicker et al. 2001) with the compensated 2D filter of Mip-Splatting (Yu et al. 2024); the same rules
// as the package's own rasterizer. A splat is a rectangle along the axes of its ellipse, out to where alpha is 1/255.
const SPLAT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
const float FILTER = 0.1, NEAR = 0.01, MARGIN = 0.3, LEVELS = 63.0;
uniform usampler2D splats;
uniform vec3 origin, extent;
uniform vec2 scaleRange;  // smallest logarithm, one step
uniform mat3 rotation;  // world to camera: x right, y down, z forward
uniform vec3 shift;
uniform float focal;
uniform vec2 size;  // of the picture in pixels
in uint index;
out vec2 along;  // exponent = its square
flat out vec4 light;

vec4 quaternion(uint code) {
  vec3 rest = (vec3(code >> 2 & 127u, code >> 9 & 127u, code >> 16 & 127u) / LEVELS - 1.0) * sqrt(0.5);
  float largest = sqrt(max(0.0, 1.0 - dot(rest, rest)));
  uint place = code & 3u;
  return place == 0u ? vec4(largest, rest)
    : place == 1u ? vec4(rest.x, largest, rest.yz)
    : place == 2u ? vec4(rest.xy, largest, rest.z)
    : vec4(rest, largest);
}

mat3 turn(vec4 q) {  // columns; q = w, x, y, z
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  // outside, until it is known to be seen
  ivec2 place = ivec2(index & 1023u, index >> 10);
  uvec4 word = texelFetch(splats, place, 0);
  vec3 step = vec3(word.x & 65535u, word.x >> 16, word.y & 65535u) / 65535.0;
  vec3 point = rotation * (origin + step * extent) + shift;
  if (point.z < NEAR) return;
  vec3 deviation = exp(scaleRange.x + scaleRange.y * vec3(word.y >> 16 & 255u, word.y >> 24, word.z & 255u));
  mat3 axes = rotation * turn(quaternion(word.z >> 8));
  axes = mat3(axes[0] * deviation.x, axes[1] * deviation.y, axes[2] * deviation.z);
  vec2 bound = size * (0.5 + 0.5 * MARGIN) / focal;
  vec2 slope = clamp(point.xy / point.z, -bound, bound);
  vec3 perAxis = vec3(axes[0].x, axes[1].x, axes[2].x) - slope.x * vec3(axes[0].z, axes[1].z, axes[2].z);
  vec3 perAxisY = vec3(axes[0].y, axes[1].y, axes[2].y) - slope.y * vec3(axes[0].z, axes[1].z, axes[2].z);
  perAxis *= focal / point.z;
  perAxisY *= focal / point.z;
  float xx = dot(perAxis, perAxis), xy = dot(perAxis, perAxisY), yy = dot(perAxisY, perAxisY);
  vec3 normal = cross(perAxis, perAxisY);  // its square is xx yy - xy xy, without the cancellation
  float sharp = dot(normal, normal);
  float wide = sharp + FILTER * (xx + yy) + FILTER * FILTER;
  xx += FILTER;
  yy += FILTER;
  vec4 color = vec4(word.w & 255u, word.w >> 8 & 255u, word.w >> 16 & 255u, word.w >> 24) / 255.0;
  color.a *= sqrt(sharp / wide);
  if (!(color.a >= 1.0 / 255.0)) return;
  float middle = 0.5 * (xx + yy), half_ = length(vec2(0.5 * (xx - yy), xy));
  float angle = half_ > 0.0 ? 0.5 * atan(xy, 0.5 * (xx - yy)) : 0.0;
  vec2 major = vec2(cos(angle), sin(angle));
  float longer = middle + half_;
  along = (vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0) * sqrt(log(255.0 * color.a));
  vec2 offset = sqrt(2.0 * longer) * along.x * major
    + sqrt(2.0 * wide / longer) * along.y * vec2(-major.y, major.x);
  vec2 pixel = focal * point.xy / point.z + offset;
  gl_Position = vec4(2.0 * pixel.x / size.x, -2.0 * pixel.y / size.y, 0.0, 1.0);
  light = color;
}`;

const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec2 along;
flat in vec4 light;
out vec4 result;
void main() {
  float alpha = min(0.999, light.a * exp(-dot(along, along)));
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(light.rgb * alpha, alpha);
}`;

const SHOW_VERTEX = `#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

const SHOW_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D picture;
uniform vec3 background;
out vec4 result;
void main() {
  vec4 light = texelFetch(picture, ivec2(gl_FragCoord.xy), 0);
  result = vec4(light.rgb + (1.0 - light.a) * background, 1.0);
}`;
