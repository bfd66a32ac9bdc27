// What only a browser can do: take dropped, chosen and pasted files, and frames of the camera, and send them.
(() => {
  "use strict";
  const token = document.currentScript.dataset.token;
  const MOST_FILES = 50;
  const FRAME_MS = 200; // at most five frames a second
  const FRAME_SIDE = 960;
  const byId = (id) => document.getElementById(id);
  const isBusy = { count: 0 };

  const busy = (step) => {
    isBusy.count += step;
    document.body.classList.toggle("sending", isBusy.count > 0);
  };

  // One file; the page's own server says on the page what is wrong with it.
  async function send(body, name, camera) {
    const query = new URLSearchParams({ name, camera: camera ? "1" : "" });
    if (!camera) busy(1);
    try {
      return (await fetch(`picture/${token}?${query}`, { method: "POST", body })).ok;
    } catch {
      return false;
    } finally {
      if (!camera) busy(-1);
    }
  }

  async function sendAll(files) {
    stopCamera();
    for (const file of [...files].slice(0, MOST_FILES)) await send(file, file.name || "pasted picture", false);
  }

  let depth = 0;
  const dragged = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const over = (on) => document.body.classList.toggle("dragging", on);
  addEventListener("dragenter", (event) => {
    if (dragged(event)) over(++depth > 0);
  });
  addEventListener("dragleave", (event) => {
    if (dragged(event)) over(--depth > 0);
  });
  addEventListener("dragover", (event) => {
    if (dragged(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!dragged(event)) return;
    event.preventDefault();
    over((depth = 0) > 0);
    sendAll(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData && event.clipboardData.files.length) sendAll(event.clipboardData.files);
  });
  addEventListener("change", (event) => {
    if (event.target.id !== "file") return;
    sendAll(event.target.files);
    event.target.value = "";
  });
  addEventListener("click", (event) => {
    if (!event.target.closest) return;
    if (event.target.closest("#camera")) stream ? stopCamera() : startCamera();
    else if (event.target.closest(".thumb")) stopCamera();
  });

  let stream = null;
  const REASONS = {
    NotAllowedError: "The browser was not allowed to use the camera.",
    NotFoundError: "This machine has no camera.",
    NotReadableError: "Another program uses the camera.",
  };

  function show(note) {
    byId("camera-note").textContent = note;
    byId("camera").setAttribute("aria-pressed", String(Boolean(stream)));
    byId("camera-words").textContent = stream ? "Stop the camera" : "Use the camera";
    byId("live").hidden = !stream;
  }

  async function startCamera() {
    if (!navigator.mediaDevices) {
      show("Browsers give a camera only to pages of this machine, or over HTTPS.");
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } }, audio: false });
    } catch (error) {
      show(REASONS[error.name] || "The camera cannot be used.");
      return;
    }
    const video = byId("live");
    video.srcObject = stream;
    await video.play();
    show("");
    frames(video, stream);
  }

  function stopCamera(note = "") {
    if (!stream) return;
    for (const track of stream.getTracks()) track.stop();
    stream = null;
    byId("live").srcObject = null;
    show(note);
  }

  // One frame is in flight at a time.
  async function frames(video, mine) {
    const canvas = document.createElement("canvas");
    while (stream === mine) {
      const began = performance.now();
      const scale = Math.min(1, FRAME_SIDE / Math.max(video.videoWidth, video.videoHeight, 1));
      canvas.width = Math.max(1, Math.round(video.videoWidth * scale));
      canvas.height = Math.max(1, Math.round(video.videoHeight * scale));
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      const frame = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
      const left = () => FRAME_MS - (performance.now() - began);
      if (stream === mine && frame && !(await send(frame, "camera", true))) {
        await new Promise((done) => setTimeout(done, 1000)); // the server is away, or the page is
      }
      await new Promise((done) => setTimeout(done, Math.max(0, left())));
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stopCamera("The camera stopped because this tab was hidden.");
  });
})();
