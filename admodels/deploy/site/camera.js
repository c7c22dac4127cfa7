// The visitor's camera: frame after frame, each as soon as the one before is scored.

export class Camera {
  #video;
  #stream = null;
  #shownAt = [];

  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#stream !== null;
  }

  /** Frames a second that were scored and shown lately; 0 until there are some. */
  get rate() {
    const times = this.#shownAt;
    return times.length < 3 ? 0 : (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
  }

  /**
   * @param score gets a frame as an ImageBitmap, and promises its result.
   * @param show gets each result; meanwhile the next frame is scored.
   * @param fail gets the error where a frame could not be scored; nothing comes after it.
   * @throws {Error} with what to do, where there is no camera or it may not be used.
   */
  async start(score, show, fail) {
    if (!navigator.mediaDevices) throw new Error("A browser gives its camera only to pages from https or localhost.");
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } },
      });
      this.#video.srcObject = this.#stream;
      await this.#video.play();
    } catch (error) {
      this.stop();
      const reasons = {
        NotAllowedError: "The camera may not be used. Allow it in the browser's address bar.",
        NotFoundError: "There is no camera.",
        NotReadableError: "The camera is in use by another program.",
      };
      throw new Error(reasons[error.name] ?? `The camera does not start (${error.message}).`);
    }
    this.#shownAt = [];
    this.#run(score, show).catch(fail);
  }

  async #run(score, show) {
    const stream = this.#stream;
    const next = async () => {
      do await new Promise((done) => (document.hidden ? setTimeout(done, 250) : requestAnimationFrame(done)));
      while (this.#stream === stream && (document.hidden || !this.#video.videoWidth));
      return this.#stream === stream ? score(await createImageBitmap(this.#video)) : null;
    };
    let coming = next();
    for (;;) {
      const result = await coming;
      if (!result || this.#stream !== stream) return;
      coming = next();
      coming.catch(() => {}); // looked at in the next round
      show(result);
      this.#shownAt = [...this.#shownAt.slice(-29), performance.now()];
    }
  }

  /** What it sees now, as a PNG file. */
  async picture(name) {
    const canvas = new OffscreenCanvas(this.#video.videoWidth, this.#video.videoHeight);
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    return new File([await canvas.convertToBlob({ type: "image/png" })], name, { type: "image/png" });
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }
}
