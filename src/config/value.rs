//! Values that are text in the file and something else in the model: durations, sizes,
//! masks, HTTP requests, names. No file, no span: text in, value or one sentence out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::machine::spec::{Http, HttpAddress};

use super::problem::word;

/// The longest duration: a longer one is a mistake, and sums of some thousand of these
/// are still far from where `Tick` ends.
pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Milliseconds of each unit, the largest first: the order in which they are written.
const UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// `500ms`, `2s`, `1m30s`, `5m`, `1h`, `7d`; each unit at most once, the largest first.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        let seconds = text
            .parse()
            .ok()
            .filter(|n| (1..=LONGEST.as_secs()).contains(n));
        format!(
            "`{}` is not a duration: write \"{}s\" (units: ms, s, m, h, d)",
            word(text),
            seconds.unwrap_or(15)
        )
    };
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut sum = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(bad)?;
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end).ok_or_else(bad)?;
        let (_, ms) = units.find(|(name, _)| *name == unit).ok_or_else(bad)?;
        if number.is_empty() {
            return Err(bad());
        }
        let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*ms));
        sum = sum.saturating_add(ms.unwrap_or(u64::MAX));
        rest = tail;
    }
    if text.is_empty() {
        return Err(bad());
    }
    let duration = Duration::from_millis(sum);
    if duration > LONGEST {
        return Err(format!("`{}` is longer than a year (365d)", word(text)));
    }
    Ok(duration)
}

/// `03:30` or `03:30:15`: seconds after midnight.
pub fn time_of_day(text: &str) -> Result<u32, String> {
    let bad = || {
        let text = word(text);
        format!("`{text}` is not a time of day: write \"03:30\" or \"03:30:15\"")
    };
    let part = |text: Option<&str>, most: u32| -> Result<u32, String> {
        let two = text.filter(|t| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit()));
        let number: Option<u32> = two.and_then(|t| t.parse().ok());
        number.filter(|n| *n <= most).ok_or_else(bad)
    };
    let mut parts = text.split(':');
    let (hours, minutes) = (part(parts.next(), 23)?, part(parts.next(), 59)?);
    let seconds = part(parts.next().or(Some("00")), 59)?;
    match parts.next() {
        None => Ok((hours * 60 + minutes) * 60 + seconds),
        Some(_) => Err(bad()),
    }
}

/// For command lines: also `90` and `0.5`, in seconds.
pub fn duration_or_seconds(text: &str) -> Result<Duration, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 3 {
        return duration(text).map_err(|e| e.replace("write ", "write 90, 0.5 or "));
    }
    let full = format!("{whole}s{part:0<3}ms");
    duration(&full).map_err(|e| e.replace(full.as_str(), text))
}

/// `65536`, `64KiB`, `16MiB`, `1GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, factor) = ["KiB", "MiB", "GiB"]
        .iter()
        .zip([1u64 << 10, 1 << 20, 1 << 30])
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .unwrap_or((text, 1));
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number
        .parse::<u64>()
        .ok()
        .filter(|_| digits)
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| {
            format!(
                "`{}` is not a size: write \"{}\" (units: KiB, MiB, GiB; none: bytes)",
                word(text),
                meant_size(text)
            )
        })
}

/// What `64M` or `64 MB` is here; where that cannot be told, any size.
fn meant_size(text: &str) -> String {
    let plain = text.trim_end_matches(['B', 'b', 'i']);
    let meant = ["M", "G"].iter().find_map(|unit| {
        let number = plain.strip_suffix(unit)?.trim_end();
        let n: u32 = number.parse().ok().filter(|n| *n > 0)?;
        Some(format!("{n}{unit}iB"))
    });
    meant.unwrap_or_else(|| "4MiB".to_owned())
}

/// `022`: three or four octal digits, as umask(1) shows them.
pub fn umask(text: &str) -> Result<u32, String> {
    let octal = matches!(text.len(), 1..=4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mask) if octal && mask <= 0o777 => Ok(mask),
        _ => Err(format!(
            "`{}` is not a file mode mask: write \"022\" (octal, up to 777)",
            word(text)
        )),
    }
}

/// A service's name: it becomes a cgroup, a syslog tag and a word on a command line.
pub fn service_name(name: &str) -> Result<(), &'static str> {
    let rule =
        "a name has 1 to 64 characters of A-Z a-z 0-9 _ . @ - and begins with a letter or digit";
    let mut bytes = name.bytes();
    match bytes.next() {
        Some(b) if b.is_ascii_alphanumeric() && name.len() <= 64 => {}
        _ => return Err(rule),
    }
    if !bytes.all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b)) {
        return Err(rule);
    }
    if name == "all" {
        return Err("`all` means every service to superctl");
    }
    Ok(())
}

/// `POST http://127.0.0.1:2019/stop`, `POST unix:/run/x.sock:/stop`.
pub fn http(text: &str) -> Result<Http, String> {
    let shape = "write \"POST http://127.0.0.1:2019/stop\" or \"POST unix:/run/x.sock:/stop\"";
    request(text, shape)
}

/// `GET http://127.0.0.1:8080/health`, of a probe.
pub fn question(text: &str) -> Result<Http, String> {
    let shape = "write \"http://127.0.0.1:8080/health\" or \"unix:/run/x.sock:/health\"";
    match text.contains(' ') {
        true => request(text, shape),
        false => request(&format!("GET {text}"), shape),
    }
}

fn request(text: &str, shape: &str) -> Result<Http, String> {
    let Some((method, url)) = text.split_once(' ') else {
        return Err(format!("`{}` is not a request: {shape}", word(text)));
    };
    if !matches!(method.len(), 1..=16) || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(format!("`{}` is not a method: {shape}", word(method)));
    }
    if !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains('#') || url.len() > 2048 {
        return Err(format!(
            "the address may hold up to 2048 printable ASCII characters without spaces and #: {shape}"
        ));
    }
    if let Some(unix) = url.strip_prefix("unix:") {
        return unix_request(method, unix).ok_or_else(|| {
            format!(
                "`{}` is not a unix socket of at most 107 bytes and a path: {shape}",
                word(url)
            )
        });
    }
    if url.starts_with("https:") {
        return Err(
            "https is not spoken here: use http on a loopback address, or a unix socket".to_owned(),
        );
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!("`{}` is not an address: {shape}", word(url)));
    };
    let (host, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
        None => (rest, ""),
    };
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    Ok(Http {
        method: method.to_owned(),
        to: HttpAddress::Tcp(address(host)?),
        host: host.to_owned(),
        path,
    })
}

/// `127.0.0.1:80`, `[::1]:80`, `localhost:80`, `unix:/run/x.sock`.
pub fn endpoint(text: &str) -> Result<HttpAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        // sockaddr_un(7): 108 bytes with the NUL.
        return match path.starts_with('/') && path.len() <= 107 {
            true => Ok(HttpAddress::Unix(path.to_owned())),
            false => Err(format!(
                "`{}` is not a path of at most 107 bytes that begins with /",
                word(path)
            )),
        };
    }
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.contains(']'));
    if !has_port {
        return Err(format!(
            "`{}` is not an address with a port: write \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/run/x.sock\"",
            word(text)
        ));
    }
    Ok(HttpAddress::Tcp(address(text)?))
}

/// `/run/x.sock:/stop`. Caddy accepts 127.0.0.1 as the `Host:` of its admin socket and
/// refuses `localhost`; others do not look.
fn unix_request(method: &str, unix: &str) -> Option<Http> {
    let (socket, path) = unix.split_once(":/")?;
    // sockaddr_un(7): 108 bytes with the NUL.
    if !socket.starts_with('/') || socket.len() > 107 {
        return None;
    }
    Some(Http {
        method: method.to_owned(),
        to: HttpAddress::Unix(socket.to_owned()),
        host: "127.0.0.1".to_owned(),
        path: format!("/{path}"),
    })
}

/// `127.0.0.1:2019`, `[::1]:2019`, `localhost:2019`; port 80 when there is none. Other
/// names are refused: a resolver would block.
fn address(host: &str) -> Result<SocketAddr, String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "80"),
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port = match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => port,
        _ => return Err(format!("`{}` is not a port from 1 to 65535", word(port))),
    };
    let ip = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6).ok(),
        None if name.eq_ignore_ascii_case("localhost") => Some(Ipv4Addr::LOCALHOST.into()),
        None => name.parse().map(IpAddr::V4).ok(),
    };
    match ip {
        Some(ip) if !ip.is_unspecified() && !ip.is_multicast() => Ok(SocketAddr::new(ip, port)),
        _ => Err(format!(
            "`{}` must be an address like 127.0.0.1 or [::1], or localhost (names are not looked up)",
            word(name)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_are_read_with_all_their_digits() {
        assert_eq!(time_of_day("00:00"), Ok(0));
        assert_eq!(time_of_day("03:30"), Ok(12_600));
        assert_eq!(time_of_day("23:59:59"), Ok(86_399));
        for bad in [
            "",
            "3:30",
            "24:00",
            "12:60",
            "12:00:60",
            "12",
            "12:00:00:00",
            "12:00pm",
            "+1:00",
            " 03:30",
        ] {
            assert!(
                time_of_day(bad).unwrap_err().contains("time of day"),
                "{bad}"
            );
        }
    }

    #[test]
    fn durations_are_read_with_their_units_and_nothing_else() {
        let ms = |t: &str| duration(t).map(|d| d.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("1h"), Ok(3_600_000));
        assert_eq!(ms("0s"), Ok(0));
        assert_eq!(ms("365d"), Ok(365 * 86_400_000));
        for bad in [
            "",
            "15",
            "s",
            "1.5s",
            "-1s",
            "2 s",
            "1s1m",
            "1s1s",
            "1min",
            "99999999999999999999s",
            "366d",
            "365d1ms",
            "1mö",
            "18446744073709551615ms",
            "213503982334d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_masks_are_read_and_never_overflow() {
        assert_eq!(size("16KiB"), Ok(16_384));
        assert_eq!(size("0"), Ok(0));
        for (bad, like) in [
            ("", "4MiB"),
            ("KiB", "4MiB"),
            ("16K", "4MiB"),
            ("64M", "64MiB"),
            ("64 MB", "64MiB"),
            ("2Gi", "2GiB"),
            ("0M", "4MiB"),
            ("+1", "4MiB"),
            ("-1", "4MiB"),
            ("99999999999GiB", "4MiB"),
            ("1.5MiB", "4MiB"),
        ] {
            let said = size(bad).unwrap_err();
            assert!(said.contains(&format!("write \"{like}\"")), "{bad}: {said}");
        }
        assert_eq!(umask("022"), Ok(0o22));
        assert_eq!(umask("0077"), Ok(0o77));
        for bad in ["", "8", "1000", "00022", "+22", "u=rwx"] {
            assert!(umask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_go_to_addresses_and_sockets_only() {
        let show = |t: &str| http(t).map(|h| (h.to_string(), h.host));
        let ok = |t: &str| show(t).unwrap();
        assert_eq!(
            ok("POST http://localhost:2019/stop?x=1"),
            (
                "POST http://127.0.0.1:2019/stop?x=1".into(),
                "localhost:2019".into()
            )
        );
        assert_eq!(ok("GET http://127.0.0.1").0, "GET http://127.0.0.1:80/");
        assert_eq!(ok("GET http://[::1]/a").0, "GET http://[::1]:80/a");
        assert_eq!(ok("GET http://[::1]:7?a").0, "GET http://[::1]:7/?a");
        assert_eq!(
            ok("POST unix:/run/x.sock:/stop").0,
            "POST unix:/run/x.sock:/stop"
        );
        for bad in [
            "",
            "POST",
            "post http://127.0.0.1/",
            "POST https://127.0.0.1/",
            "POST http://host/",
            "POST http://127.0.0.1:0/",
            "POST http://127.0.0.1:65536/",
            "POST http://u@127.0.0.1/",
            "POST http://127.0.0.1/a b",
            "POST http://127.0.0.1/a\r\nX: y",
            "POST unix:x:/stop",
            "POST unix:/run/x.sock",
            "POST http://::1/",
            "POST http://0.0.0.0/",
            "POST http:///",
            "POST http://127.0.0.1:/",
            "POST http://127.0.0.1/#a",
            "POST /stop",
        ] {
            assert!(http(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_safe_as_file_names_and_words() {
        for good in ["a", "dns-d", "0", "getty@tty1", "my.app_2"] {
            assert!(service_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", "all", "a\n", &long] {
            assert!(service_name(bad).is_err(), "{bad}");
        }
    }
}
