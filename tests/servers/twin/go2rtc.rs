//! `leaver`: go2rtc 1.9.4 to 1.9.8 (AlexxIT/go2rtc#1330, and the children it leaves).

use std::thread;

use super::{answer, hold_signals, in_own_session, Head, Listener, Stream, Twin};

const PANIC: &str = "close of closed channel";
// The numbers of its lines are not the real ones'.
const STACK: &str = "goroutine 83 [running]:
github.com/AlexxIT/go2rtc/pkg/core.(*Sender).Close(0xc0001bc000)
\t/twin/pkg/core/track.go:1 +0x45
github.com/AlexxIT/go2rtc/internal/streams.(*Stream).RemoveConsumer(0xc000196000)
\t/twin/internal/streams/stream.go:1 +0xb6
created by github.com/pion/webrtc/v3.(*PeerConnection).onConnectionStateChange in goroutine 61
\t/twin/webrtc/peerconnection.go:1 +0x13c
";

/// Its camera is a child in a session of its own, with `--camera` a port of its own. TERM and
/// INT end it with status 0 in a millisecond, without a thought for that child.
///
/// With `--listen`: `POST /api/exit?code=N` ends it with N; a viewer is who asks for
/// `/api/ws` and stays. When one leaves it panics in `--panic` % (default never).
pub fn leaver(twin: &'static Twin) {
    let mut camera = twin.again(&["child", "camera"]);
    if let Some(at) = twin.text("--camera") {
        camera.args(["--listen", &at]);
    }
    if twin.flag("--stubborn") {
        camera.arg("--stubborn");
    }
    let running = in_own_session(&mut camera).spawn().unwrap();
    hold_signals();
    twin.note(&format!("child camera {}", running.id()));
    if twin.flag("--listen") {
        let api = Listener::at(twin);
        thread::spawn(move || loop {
            let stream = api.accept();
            thread::spawn(move || serve(twin, stream));
        });
    }
    twin.note("start");
    println!("ready");
    if !twin.flag("--at-once") {
        twin.serve();
        println!("exit with signal");
    }
    twin.end(0)
}

fn serve(twin: &Twin, mut stream: Box<dyn Stream>) {
    let head = Head::read(&mut *stream);
    if let Some((_, rest)) = head.line.split_once("/api/exit?code=") {
        let digits = rest.split(' ').next().unwrap_or_default();
        match digits.parse() {
            Ok(code @ 0..=125) => twin.end(code),
            _ => answer(&mut *stream, "400 Bad Request", ""),
        }
    } else if head.line.contains(" /api/ws") {
        twin.note("viewer");
        answer(&mut *stream, "101 Switching Protocols", "");
        stream.read_to_end(&mut Vec::new()).ok(); // until it leaves
        if twin.chance(twin.number("--panic").unwrap_or(0)) {
            twin.go_panic(PANIC, STACK);
        }
        twin.note("viewer gone");
    } else {
        answer(&mut *stream, "200 OK", "hello\n");
    }
}
