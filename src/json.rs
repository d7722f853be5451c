//! Reading and writing superd's own types as JSON: requests and replies, the journal, the state
//! of an upgrade, crash reports.
//!
//! The text is what serde and serde_json write of these types, and `derive(FromJson, ToJson)` go
//! by the same attributes. serde's own derives are not used: they make a parser and a writer of
//! every type, which together were a quarter of the program. Here a type is a list of keys and a
//! list of the places where their values are (`src/derive`), and the functions of this file go
//! through both. A type is read where it is: first it is [blank](FromJson::blank), then its
//! members are read one by one. Writing is in `json/write.rs`.
//!
//! serde_json checks the whole text first (syntax, without recursion); after that a [`Node`] is a
//! piece of it that is known to be whole, and is cut when it is looked at. No tree is built: what
//! it takes is a list of the members of each object on the way down, and the way is as deep as
//! the types. Keys that are not known are passed over; one that is there twice is refused.
//!
//! (Past 400 lines for the types of std at its end.)

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

pub use superd_derive::{FromJson, ToJson};
pub use write::{append, to_string, Members, ToJson, Values, Writer};

use crate::map::{Map, Set};

mod write;

/// Can be read from JSON.
pub trait FromJson: Place {
    /// What it is before it is read: any value, as cheap as possible.
    fn blank() -> Self;
}

/// Is read from JSON where it is, so that a list of such places can be read.
pub trait Place {
    /// Reads it in the place of a blank or a default value. What is there after a fault is of no use.
    ///
    /// # Errors
    /// What is wrong and where.
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault>;
}

/// Why something cannot be read.
pub struct Fault(Box<Why>);

struct Why {
    /// Keys from the outside, the innermost first.
    at: Vec<&'static str>,
    what: Cow<'static, str>,
    is_absent: bool,
}

impl Fault {
    /// What is wrong here.
    #[cold]
    #[inline(never)]
    pub fn new(what: impl Into<Cow<'static, str>>) -> Fault {
        Fault(Box::new(Why {
            at: Vec::new(),
            what: what.into(),
            is_absent: false,
        }))
    }

    /// It was at this key.
    #[cold]
    #[inline(never)]
    fn inside(mut self, key: &'static str) -> Fault {
        let why = &mut *self.0;
        if std::mem::take(&mut why.is_absent) && why.at.is_empty() {
            why.what = format!("missing field `{key}`").into();
        } else {
            why.at.push(key);
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, key) in self.0.at.iter().rev().enumerate() {
            f.write_str(if n == 0 { "" } else { "." })?;
            f.write_str(key)?;
        }
        f.write_str(if self.0.at.is_empty() { "" } else { ": " })?;
        f.write_str(&self.0.what)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Fault {}

/// A value in a text that is JSON as a whole.
#[derive(Clone, Copy)]
pub struct Node<'a>(&'a str);

/// Reads something from a text.
///
/// # Errors
/// The text is not JSON, or not of this type.
pub fn from_str<T: FromJson>(text: &str) -> Result<T, Fault> {
    let mut value = T::blank();
    value.read(check(text)?)?;
    Ok(value)
}

/// Reads something from bytes.
///
/// # Errors
/// Likewise.
pub fn from_slice<T: FromJson>(text: &[u8]) -> Result<T, Fault> {
    let Ok(text) = std::str::from_utf8(text) else {
        return Err(Fault::new("it is not UTF-8"));
    };
    from_str(text)
}

#[inline(never)]
fn check(text: &str) -> Result<Node<'_>, Fault> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(Node(text.trim_matches(SPACE))),
        Err(e) => Err(Fault::new(e.to_string())),
    }
}

const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The length of the value that `text` begins with.
fn value_len(text: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at += string_len(text.get(at..).unwrap_or_default());
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at + depth,
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// The length of the string that `text` begins with, with its quotes.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(n) = memchr::memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        at += n + 1;
        if text.get(at - 1) == Some(&b'"') {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// What follows an opening bracket or a value: cut from the front.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// The next value, or none at the closing bracket.
    #[inline(never)]
    fn next(&mut self) -> Option<&'a str> {
        let between = |c| matches!(c, ',' | ':') || SPACE.contains(&c);
        let rest = self.0.trim_start_matches(between);
        let (value, rest) = rest.split_at_checked(value_len(rest.as_bytes()))?;
        self.0 = rest;
        (!value.is_empty()).then_some(value)
    }
}

impl<'a> Node<'a> {
    const ABSENT: Node<'static> = Node("");
    /// In the place of a member that is there twice: what no type can be read from.
    const TWICE: Node<'static> = Node("?");

    /// There is no such member.
    pub fn is_absent(self) -> bool {
        self.0.is_empty()
    }

    #[cold]
    #[inline(never)]
    fn is_not(self, wanted: &'static str) -> Fault {
        if self.is_absent() {
            let mut fault = Fault::new("something is missing");
            fault.0.is_absent = true;
            return fault;
        }
        if self.0 == Node::TWICE.0 {
            return Fault::new("it is there twice");
        }
        let found: String = self.0.chars().take(40).collect();
        Fault::new(format!("{found} is not {wanted}"))
    }

    fn inside(self, open: char, wanted: &'static str) -> Result<Rest<'a>, Fault> {
        self.0
            .strip_prefix(open)
            .map(Rest)
            .ok_or_else(|| self.is_not(wanted))
    }

    #[inline(never)]
    fn object(self) -> Result<Object<'a>, Fault> {
        let mut rest = self.inside('{', "an object")?;
        let mut members = Vec::new();
        while let Some(key) = rest.next() {
            let value = rest.next().unwrap_or_default();
            members.push((Node(key).text()?, Node(value)));
        }
        Ok(Object { members, next: 0 })
    }

    /// Reads the members of an object into their places. `keys` is what [`Writer::members`] writes
    /// them by: a key with a mark may be absent, and its place is left as it is then.
    ///
    /// # Errors
    /// It is no object, or one of them is missing or wrong.
    #[inline(never)]
    pub fn members(self, keys: &'static str, places: &mut [&mut dyn Place]) -> Result<(), Fault> {
        let mut object = self.object()?;
        let keys = keys.split(' ').filter(|key| !key.contains('='));
        for (key, place) in keys.zip(places) {
            if key == "*" {
                place.read(self)?;
                continue;
            }
            let name = key.trim_end_matches(MARKS);
            let node = object.take(name);
            if !node.is_absent() || name == key {
                place.read(node).map_err(|fault| fault.inside(name))?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn array(self) -> Result<List<'a>, Fault> {
        self.inside('[', "a list").map(List)
    }

    /// Reads the elements of a list that has as many as there are places.
    ///
    /// # Errors
    /// It is no such list, or one of them is wrong.
    #[inline(never)]
    pub fn list(self, places: &mut [&mut dyn Place]) -> Result<(), Fault> {
        let mut list = self.array()?;
        for place in places {
            place.read(list.next().unwrap_or(Node::ABSENT))?;
        }
        match list.next() {
            None => Ok(()),
            Some(more) => Err(more.is_not("to be in this list")),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// It is none.
    #[inline(never)]
    pub fn text(self) -> Result<Cow<'a, str>, Fault> {
        let inner = self.0.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        match inner {
            Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
            Some(_) => match serde_json::from_str::<String>(self.0) {
                Ok(text) => Ok(Cow::Owned(text)),
                Err(e) => Err(Fault::new(e.to_string())),
            },
            None => Err(self.is_not("a string")),
        }
    }

    /// Which of the variants it is, and what it has.
    ///
    /// # Errors
    /// None of them.
    #[inline(never)]
    pub fn variant(self, names: &str) -> Result<(u32, Node<'a>), Fault> {
        if self.0.starts_with('{') {
            let mut rest = self.inside('{', "")?;
            let key = Node(rest.next().unwrap_or_default()).text()?;
            let value = Node(rest.next().unwrap_or_default());
            return match rest.next() {
                None => Ok((index(names, &key)?, value)),
                Some(_) => Err(self.is_not("one variant")),
            };
        }
        let name = self.text()?;
        Ok((index(names, &name)?, Node::ABSENT))
    }

    /// Which of the variants that have nothing it is.
    ///
    /// # Errors
    /// None of them.
    #[inline(never)]
    pub fn plain(self, names: &str) -> Result<u32, Fault> {
        let (which, has) = self.variant(names)?;
        has.nothing().map(|()| which)
    }

    /// Which of the variants its member `tag` names.
    ///
    /// # Errors
    /// None of them.
    #[inline(never)]
    pub fn tag(self, tag: &'static str, names: &str) -> Result<u32, Fault> {
        let name = self.object()?.take(tag).text();
        name.and_then(|name| index(names, &name))
            .map_err(|fault| fault.inside(tag))
    }

    /// A variant that has nothing.
    ///
    /// # Errors
    /// There is something.
    #[inline(never)]
    pub fn nothing(self) -> Result<(), Fault> {
        match self.0 {
            "" | "null" => Ok(()),
            _ => Err(self.is_not("nothing")),
        }
    }

    /// Of a key, which may be any string: JSON has one text for a whole number, Rust takes more.
    #[inline(never)]
    fn number(text: &str) -> Result<Node<'_>, Fault> {
        let node = Node(text);
        match text.strip_prefix('-').unwrap_or(text) {
            "" => Err(node.unfit()),
            digits if digits.len() > 1 && digits.starts_with('0') => Err(node.unfit()),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(node),
            _ => Err(node.unfit()),
        }
    }

    #[inline(never)]
    fn unsigned(self, most: u64) -> Result<u64, Fault> {
        let number = self.0.parse().ok().filter(|n| *n <= most);
        number.ok_or_else(|| self.is_not("a number that fits here"))
    }

    #[inline(never)]
    fn signed(self, most: i64) -> Result<i64, Fault> {
        let number = self.0.parse().ok().filter(|n| (!most..=most).contains(n));
        number.ok_or_else(|| self.is_not("a number that fits here"))
    }

    /// What is at the place of a string.
    #[cold]
    fn unfit(self) -> Fault {
        self.is_not("as it can be here")
    }
}

/// The index of a name among names with a space between.
#[inline(never)]
fn index(names: &str, name: &str) -> Result<u32, Fault> {
    match names.split(' ').position(|n| n == name) {
        Some(n) => Ok(n as u32),
        None => {
            let name: String = name.chars().take(40).collect();
            Err(Fault::new(format!("unknown variant `{name}`")))
        }
    }
}

/// What stands behind the key of a member that may be absent.
const MARKS: [char; 3] = ['~', '?', '!'];

/// The members of an object.
struct Object<'a> {
    members: Vec<(Cow<'a, str>, Node<'a>)>,
    /// Where the next one is looked for first: superd reads in the order in which it writes.
    next: usize,
}

impl<'a> Object<'a> {
    /// The member of this name; [`Node::is_absent`] if there is none.
    #[inline(never)]
    fn take(&mut self, key: &str) -> Node<'a> {
        let is = |m: &(Cow<'a, str>, Node<'a>)| m.0 == key;
        let at = match self.members.get(self.next).is_some_and(is) {
            true => Some(self.next),
            false => self.members.iter().position(is),
        };
        let Some((n, (_, node))) = at.and_then(|n| Some((n, self.members.get(n)?))) else {
            return Node::ABSENT;
        };
        if self.members.iter().filter(|m| is(m)).nth(1).is_some() {
            return Node::TWICE;
        }
        self.next = n + 1;
        *node
    }
}

/// The elements of a list.
struct List<'a>(Rest<'a>);

impl<'a> Iterator for List<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        self.0.next().map(Node)
    }
}

/// A place that is read by a function of its own.
pub struct With<'a, T>(pub &'a mut T, pub fn(Node<'_>) -> Result<T, Fault>);

impl<T> Place for With<'_, T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        *self.0 = (self.1)(from)?;
        Ok(())
    }
}

// ---- types that are not ours ----

macro_rules! numbers {
    ($($to:ident $as:ident: $($type:ty)*;)*) => { $($(
        impl Place for $type {
            #[allow(clippy::cast_possible_truncation)] // it is not above MAX
            fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
                *self = from.$to(<$type>::MAX as $as)? as $type;
                Ok(())
            }
        }
        impl Key for $type {
            fn of_key(text: &str) -> Result<Self, Fault> {
                let mut number = 0;
                number.read(Node::number(text)?)?;
                Ok(number)
            }
        }
    )*)* };
}
numbers! {
    unsigned u64: u8 u16 u32 u64 usize;
    signed i64: i32 i64;
}

/// A key of a map, which is a string in JSON.
pub trait Key: Ord + Sized {
    /// From the string.
    ///
    /// # Errors
    /// It is none of these.
    fn of_key(text: &str) -> Result<Self, Fault>;
}

impl Key for String {
    fn of_key(text: &str) -> Result<String, Fault> {
        Ok(text.to_owned())
    }
}

macro_rules! blanks {
    ($($type:ty: $blank:expr;)*) => { $(
        impl FromJson for $type {
            fn blank() -> Self {
                $blank
            }
        }
    )* };
}
blanks! {
    u8: 0; u16: 0; u32: 0; u64: 0; usize: 0; i32: 0; i64: 0;
    bool: false;
    char: ' ';
    String: String::new();
    &'static str: "";
    Rc<str>: Rc::from("");
    PathBuf: PathBuf::new();
    Rc<Path>: Rc::from(Path::new(""));
    IpAddr: Ipv4Addr::UNSPECIFIED.into();
    SocketAddr: (Ipv4Addr::UNSPECIFIED, 0).into();
    Duration: Duration::ZERO;
}

impl Place for bool {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        *self = match from.0 {
            "true" => true,
            "false" => false,
            _ => return Err(from.is_not("true or false")),
        };
        Ok(())
    }
}

impl Place for char {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        let text = from.text()?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => *self = c,
            _ => return Err(from.unfit()),
        }
        Ok(())
    }
}

macro_rules! texts {
    ($($type:ty: $text:ident, $node:ident $value:expr;)*) => { $(
        impl Place for $type {
            fn read(&mut self, $node: Node<'_>) -> Result<(), Fault> {
                let $text = $node.text()?;
                *self = $value;
                Ok(())
            }
        }
    )* };
}
texts! {
    String: text, from text.into_owned();
    Rc<str>: text, from Rc::from(&*text);
    PathBuf: text, from text.into_owned().into();
    Rc<Path>: text, from Rc::from(Path::new(&*text));
    IpAddr: text, from text.parse().map_err(|_| from.unfit())?;
    SocketAddr: text, from text.parse().map_err(|_| from.unfit())?;
}

/// Names that superd knows are read by functions of their own: [`With`].
impl Place for &'static str {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        Err(from.unfit())
    }
}

impl Place for Duration {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        let (mut secs, mut nanos) = (0, Nanos(0));
        from.members("secs nanos", &mut [&mut secs, &mut nanos])?;
        *self = Duration::new(secs, nanos.0);
        Ok(())
    }
}

/// The part of a second.
struct Nanos(u32);

impl Place for Nanos {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        self.0 = from.unsigned(999_999_999)? as u32;
        Ok(())
    }
}

impl<T: FromJson> FromJson for Box<T> {
    fn blank() -> Box<T> {
        Box::new(T::blank())
    }
}

impl<T: Place> Place for Box<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        (**self).read(from)
    }
}

impl<T: FromJson> FromJson for Rc<T> {
    fn blank() -> Rc<T> {
        Rc::new(T::blank())
    }
}

impl<T: FromJson> Place for Rc<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        *self = Rc::blank();
        match Rc::get_mut(self) {
            Some(value) => value.read(from),
            None => Err(from.unfit()), // nobody else has it yet
        }
    }
}

impl<T: FromJson> FromJson for Rc<[T]> {
    fn blank() -> Rc<[T]> {
        Rc::from([])
    }
}

impl<T: FromJson> Place for Rc<[T]> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        let mut all = Vec::new();
        all.read(from)?;
        *self = all.into();
        Ok(())
    }
}

impl<T: FromJson> FromJson for Cell<T> {
    fn blank() -> Cell<T> {
        Cell::new(T::blank())
    }
}

impl<T: Place> Place for Cell<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        self.get_mut().read(from)
    }
}

impl<T: FromJson> FromJson for Option<T> {
    fn blank() -> Option<T> {
        None
    }
}

impl<T: FromJson> Place for Option<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        match from.0 {
            "" | "null" => {
                *self = None;
                Ok(())
            }
            _ => self.insert(T::blank()).read(from),
        }
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn blank() -> Vec<T> {
        Vec::new()
    }
}

impl<T: FromJson> Place for Vec<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        *self = Vec::new();
        for node in from.array()? {
            self.push(T::blank());
            if let Some(last) = self.last_mut() {
                last.read(node)?;
            }
        }
        Ok(())
    }
}

impl<T: FromJson> FromJson for VecDeque<T> {
    fn blank() -> VecDeque<T> {
        VecDeque::new()
    }
}

impl<T: FromJson> Place for VecDeque<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        let mut all = Vec::new();
        all.read(from)?;
        *self = all.into();
        Ok(())
    }
}

impl<T: FromJson + Ord> FromJson for Set<T> {
    fn blank() -> Set<T> {
        Set::new()
    }
}

impl<T: FromJson + Ord> Place for Set<T> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        let mut all = Vec::new();
        all.read(from)?;
        *self = all.into_iter().collect();
        Ok(())
    }
}

impl<K: Key, V: FromJson> FromJson for Map<K, V> {
    fn blank() -> Map<K, V> {
        Map::new()
    }
}

impl<K: Key, V: FromJson> Place for Map<K, V> {
    fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
        *self = Map::new();
        for (key, node) in from.object()?.members {
            let mut value = V::blank();
            value.read(node)?;
            self.insert(K::of_key(&key)?, value);
        }
        Ok(())
    }
}

macro_rules! tuples {
    ($(($($type:ident $n:tt)*))*) => { $(
        impl<$($type: FromJson),*> FromJson for ($($type,)*) {
            fn blank() -> Self {
                ($($type::blank(),)*)
            }
        }
        impl<$($type: FromJson),*> Place for ($($type,)*) {
            fn read(&mut self, from: Node<'_>) -> Result<(), Fault> {
                from.list(&mut [$(&mut self.$n),*])
            }
        }
    )* };
}
tuples! { (A 0 B 1) (A 0 B 1 C 2) (A 0 B 1 C 2 D 3) }

#[cfg(test)]
mod tests;
