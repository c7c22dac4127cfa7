"""Gradio's camera, worked by buttons of ours: JavaScript for a component with its `elem_id`."""

_OPENED = """async () => {
    const part = (selector) => document.querySelector("#%s " + selector);
    if (!navigator.mediaDevices) return "insecure";
    let opener = null;
    for (let waited = 0; waited < 60_000; waited += 200) {
        if (part("video")?.videoWidth) return "";
        if (!opener) {
            opener = part("[title='grant webcam access'] button"); // there once its tab is drawn
            opener?.click();
        }
        const state = await navigator.permissions?.query({ name: "camera" }).then((found) => found.state, () => "");
        if (state === "denied") return "denied";
        const devices = await navigator.mediaDevices.enumerateDevices();
        if (!devices.some(({ kind }) => kind === "videoinput")) return "none";
        await new Promise((done) => setTimeout(done, 200));
    }
    return "late";
}"""


def opened(camera: str) -> str:
    """Open it; empty once it shows something, else why it does not: insecure, denied, none or late."""
    return _OPENED % camera


def record(camera: str) -> str:
    """Let the stream begin, if none runs."""
    return f"() => document.querySelector(\"#{camera} [title='start recording']\")?.closest('button').click()"


def stop(camera: str) -> str:
    """End the stream, if one runs."""
    running = f"#{camera} :is([title='stop recording'], [title=spinner])"
    return f'() => document.querySelector("{running}")?.closest("button").click()'


def start(camera: str) -> str:
    """Open it and let the stream begin; where it does not open, its own button is still there."""
    return f"async () => {{ if (!await ({opened(camera)})()) ({record(camera)})(); }}"
