// The tab Camera. Gradio runs this once, with `element`, `props` (props.value: name of the network) and `server`.
const INTERVAL = 80; // ms between frames
const SIDE = 256; // pixels of the short side of a frame
const PROBLEMS = {
  NotFoundError: "No camera was found. Connect one, then start again.",
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the browser's settings of this page.",
  NotReadableError: "The camera is in use by another program. Close that, then start again.",
};
const video = element.querySelector("video");
const button = element.querySelector(".start");
const found = element.querySelector(".found");
const latency = element.querySelector(".latency");
const canvas = document.createElement("canvas");
let stream = null, timer = null, busy = false;
let frames = []; // [seconds, JPEG in base64], of the last `seconds`
let seconds = 0; // that the network wants to see

function problem(text) {
  const line = document.createElement("p");
  line.className = "problem";
  line.setAttribute("role", "alert");
  line.textContent = text;
  found.replaceChildren(line);
}

function stop() {
  clearInterval(timer);
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  frames = [];
  seconds = 0;
  latency.textContent = "";
  button.textContent = "Start the camera";
}

async function start() {
  found.replaceChildren();
  if (!navigator.mediaDevices) return problem("Browsers give a camera only to pages on localhost or https.");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    return problem(PROBLEMS[error.name] ?? `The camera cannot be used (${error.message}).`);
  }
  stream.getVideoTracks()[0].onended = () => { stop(); problem("The camera was disconnected."); };
  button.textContent = "Stop the camera";
  latency.textContent = "Watching…";
  video.srcObject = stream;
  await video.play();
  timer = setInterval(grab, INTERVAL);
}

function grab() {
  if (!element.offsetParent) return stop(); // another tab of the page is shown
  const scale = SIDE / Math.min(video.videoWidth, video.videoHeight);
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const now = performance.now() / 1000;
  frames.push([now, canvas.toDataURL("image/jpeg", 0.85).split(",")[1]]);
  frames = frames.filter(([time]) => time >= now - seconds - 0.1);
  if (!busy && now - frames[0][0] >= seconds) ask();
}

async function ask() {
  busy = true;
  const shot = frames.at(-1)[0];
  const reply = await server.answer_frames({ model: props.value, frames });
  busy = false;
  if (!stream) return; // stopped meanwhile
  if (!reply || reply.problem) {
    stop();
    if (reply) found.innerHTML = reply.problem;
    else problem("The server does not answer. Is it still running?");
    return;
  }
  seconds = reply.seconds;
  if (!reply.html) return;
  found.innerHTML = reply.html;
  latency.textContent = `${Math.round(1000 * (performance.now() / 1000 - shot))} ms from the frame to the answer`;
}

button.addEventListener("click", () => (stream ? stop() : start()));
