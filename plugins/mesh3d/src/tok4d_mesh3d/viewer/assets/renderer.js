// One WebGL 2 context for all viewers of a page: browsers grant a page few of them. Pictures are copied to each canvas.
const WIDTH = 1024;  // of the textures, as the shader has it

class Renderer {
  constructor(onRestored) {
    this.canvas = document.createElement("canvas");
    this.canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); this.ready = false; });
    this.canvas.addEventListener("webglcontextrestored", () => { this.setUp(); onRestored(); });
    this.generation = 0;
    this.gl = this.canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
    if (!this.gl) throw new Error("WebGL 2 is not available");
    this.setUp();
  }

  setUp() {
    const gl = this.gl;
    // Eight bits would round each of the many faint layers: their colours drift visibly.
    this.deep = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.splat = this.program(SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.show = this.program(SHOW_VERTEX, SHOW_FRAGMENT);
    this.vertices = gl.createVertexArray();
    this.order = gl.createBuffer();
    gl.bindVertexArray(this.vertices);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    const place = gl.getAttribLocation(this.splat.program, "index");
    gl.enableVertexAttribArray(place);
    gl.vertexAttribIPointer(place, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(place, 1);
    this.empty = gl.createVertexArray();
    this.target = gl.createTexture();
    this.frame = gl.createFramebuffer();
    this.canvas.width = this.canvas.height = 0;
    this.generation += 1;
    this.ready = true;
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new Error("shader: " + gl.getShaderInfoLog(shader));
      }
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new Error("shaders: " + gl.getProgramInfoLog(program));
    }
    return { program, at: (name) => gl.getUniformLocation(program, name) };
  }

  // The drawing surface only grows: a change of size makes a new one.
  reserve(width, height) {
    const gl = this.gl, canvas = this.canvas;
    if (width <= canvas.width && height <= canvas.height) return;
    canvas.width = Math.max(width, canvas.width);
    canvas.height = Math.max(height, canvas.height);
    const format = this.deep ? gl.RGBA16F : gl.RGBA8;
    gl.deleteTexture(this.target);
    this.target = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.target);
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, canvas.width, canvas.height);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.target, 0);
    if (this.deep && gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
      this.deep = false;
      canvas.width = canvas.height = 0;
      this.reserve(width, height);
    }
  }

  // A texture of packed splats; `words` are whole rows.
  upload(words) {
    const gl = this.gl, texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32UI, WIDTH, words.length / (4 * WIDTH));
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, WIDTH, words.length / (4 * WIDTH), gl.RGBA_INTEGER, gl.UNSIGNED_INT, words);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    return texture;
  }

  // Draws splats in the given order, farthest first, and copies the picture to a 2D context of width x height.
  draw(texture, settings, camera, order, background, context, width, height) {
    const gl = this.gl, { program, at } = this.splat;
    this.reserve(width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(program);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.uniform3fv(at("origin"), settings.origin);
    gl.uniform3fv(at("extent"), settings.extent);
    gl.uniform2fv(at("scaleRange"), settings.scale);
    gl.uniformMatrix3fv(at("rotation"), true, camera.rotation);
    gl.uniform3fv(at("shift"), camera.shift);
    gl.uniform1f(at("focal"), camera.focal);
    gl.uniform2f(at("size"), width, height);
    gl.bindVertexArray(this.vertices);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.order);
    gl.bufferData(gl.ARRAY_BUFFER, order, gl.STREAM_DRAW);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, order.length);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(this.show.program);
    gl.bindTexture(gl.TEXTURE_2D, this.target);
    gl.uniform3fv(this.show.at("background"), background);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    context.drawImage(this.canvas, 0, this.canvas.height - height, width, height, 0, 0, width, height);
  }
}

// Indices by falling depth: a counting sort over 65,536 depths, stable.
function farthestFirst(points, rotation, order, scratch) {
  const [a, b, c] = rotation.slice(6), count = order.length;
  let low = Infinity, high = -Infinity;
  for (let i = 0, j = 0; i < count; i++, j += 3) {
    const depth = a * points[j] + b * points[j + 1] + c * points[j + 2];
    scratch.depths[i] = depth;
    if (depth < low) low = depth;
    if (depth > high) high = depth;
  }
  const { depths, keys, starts } = scratch, factor = high > low ? 65535 / (high - low) : 0;
  starts.fill(0);
  for (let i = 0; i < count; i++) starts[(keys[i] = ((high - depths[i]) * factor) | 0) + 1]++;
  for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
  for (let i = 0; i < count; i++) order[starts[keys[i]]++] = i;
}
