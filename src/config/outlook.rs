//! `wait-for` as typed: what of the world has to be there before a service starts.

use std::net::IpAddr;
use std::rc::Rc;

use toml::de::DeValue;

use crate::machine::outlook::{Condition, Then, WaitFor};

use super::keys;
use super::problem::word;
use super::read::{Reader, Value};
use super::stop::positive;

/// The most that a service waits for.
const MOST: usize = 16;

const LIKE: &str = "interface = \"wan\", path = \"/mnt/usb\"";

const THEN: &[(&str, Then)] = &[("fail", Then::Fail), ("start", Then::Start)];

/// `{ interface = "wan", path = "/mnt/usb", address = "10.0.0.1", time = "synced" }`, or false.
pub(super) fn read(r: &mut Reader, key: &str, v: &Value) -> Option<Option<Rc<WaitFor>>> {
    if let DeValue::Boolean(false) = v.get_ref() {
        return Some(None);
    }
    let mut all = Vec::new();
    let (mut timeout, mut then) = (None, None);
    let mut is_whole = true;
    for (name, value) in r.table(key, v, LIKE)?.iter() {
        if !r.known(name, keys::WAIT_FOR) {
            is_whole = false;
            continue;
        }
        is_whole &= match name.get_ref().as_ref() {
            "timeout" => {
                timeout = positive(r, "timeout", value);
                timeout.is_some()
            }
            "then" => {
                then = r.choice("then", value, THEN).map(|t| (t, value.span()));
                then.is_some()
            }
            what => each(r, what, value, &mut all).is_some(),
        };
    }
    if !is_whole {
        return None;
    }
    if all.is_empty() || all.len() > MOST {
        r.problem(
            v.span(),
            format_args!("`{key}` names 1 to {MOST} things: write {{ {LIKE} }}"),
        );
        return None;
    }
    if let (None, Some((_, at))) = (timeout, &then) {
        r.problem(at.clone(), "`then` goes with `timeout`");
        return None;
    }
    Some(Some(Rc::new(WaitFor {
        all,
        timeout,
        then: then.map_or(Then::Fail, |(then, _)| then),
    })))
}

/// One, or an array of several.
fn each(r: &mut Reader, key: &str, v: &Value, all: &mut Vec<Condition>) -> Option<()> {
    let DeValue::Array(list) = v.get_ref() else {
        all.push(one(r, key, v)?);
        return Some(());
    };
    for item in list.iter() {
        all.push(one(r, key, item)?);
    }
    Some(())
}

fn one(r: &mut Reader, key: &str, v: &Value) -> Option<Condition> {
    Some(match key {
        "interface" => Condition::Interface(r.parse(key, v, interface)?),
        "path" => Condition::Path(r.path(key, v)?.into()),
        "address" => Condition::Address(r.parse(key, v, address)?),
        _ => r.choice(key, v, &[("synced", Condition::Synced)])?,
    })
}

fn interface(name: &str) -> Result<Rc<str>, String> {
    // IFNAMSIZ with the NUL; the rest is what the kernel refuses (dev_valid_name).
    let odd = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace();
    if !matches!(name.len(), 1..=15) || name.bytes().any(odd) || name == "." || name == ".." {
        return Err(format!(
            "`{}` is not the name of an interface: write \"wan\" (at most 15 bytes without / : and spaces)",
            word(name)
        ));
    }
    Ok(name.into())
}

fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        Ok(_) | Err(_) => Err(format!(
            "`{}` is not the address of a machine: write \"10.0.0.1\" or \"fd00::1\"",
            word(text)
        )),
    }
}
