//! A server that becomes ready when somebody lets it, and says so in every way there is; and
//! that is well or not as a file says. It has no fault.

use std::io::Write;
use std::os::fd::FromRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{hold_signals, Head, Listener, Twin};

/// Between two looks at a file.
const PAUSE: Duration = Duration::from_millis(2);

pub fn web(twin: &'static Twin) {
    hold_signals();
    twin.note("start");
    if let Some(message) = twin.text("--say") {
        twin.notify(&message);
    }
    thread::spawn(move || serve(twin));
    if let Some(file) = twin.text("--ping-until") {
        thread::spawn(move || {
            while !Path::new(&file).exists() {
                twin.notify("WATCHDOG=1");
                thread::sleep(PAUSE * 5);
            }
        });
    }
    twin.serve();
    twin.end(0)
}

fn serve(twin: &'static Twin) {
    if let Some(gate) = twin.text("--gate") {
        while !Path::new(&gate).exists() {
            thread::sleep(PAUSE);
        }
    }
    let listener = twin.text("--listen").map(|_| Listener::at(twin));
    println!("open for business");
    twin.notify("READY=1");
    if let Some(number) = twin.number("--fd") {
        // SAFETY: the number was given to this process for just that, and is used once.
        let mut file = unsafe { std::fs::File::from_raw_fd(number as i32) };
        let said = file.write_all(b"ready\n").is_ok();
        twin.note(&format!("wrote to descriptor: {said}"));
    }
    if let Some(path) = twin.text("--touch") {
        std::fs::write(path, "1").unwrap();
    }
    twin.note("ready");
    let Some(listener) = listener else { return };
    loop {
        let mut stream = listener.accept();
        let head = Head::read(&mut *stream);
        if head.line.is_empty() {
            continue;
        }
        twin.note(&format!("request {}", head.line.trim()));
        let status = twin.text("--status").map(std::fs::read_to_string);
        let status = status.and_then(Result::ok).unwrap_or_default();
        let status = match status.trim() {
            "" => "200",
            // It hangs, and the connection with it.
            "hang" => {
                std::mem::forget(stream);
                continue;
            }
            status => status,
        };
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).ok(); // it may have gone
    }
}
