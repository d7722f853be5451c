//! Tests of `json.rs`.

use super::*;
use serde::{Deserialize, Serialize};

/// As serde does it for the map of std.
impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self)
    }
}

/// Likewise.
impl<'de, K: Ord + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Map<K, V> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Map<K, V>, D::Error> {
        std::collections::BTreeMap::deserialize(from).map(Map::from_iter)
    }
}

/// All that the derive knows, read by serde's as well.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToJson, FromJson)]
struct All {
    #[serde(rename = "do")]
    verb: Verb,
    n: u32,
    below: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maybe: Option<u8>,
    absent: Option<String>,
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default = "seven")]
    seven: u64,
    #[serde(skip)]
    not: bool,
    yes: bool,
    by: Box<By>,
    many: Vec<(Number, Verb, char)>,
    by_number: Map<u32, Duration>,
    #[serde(flatten)]
    inside: Inside,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToJson, FromJson)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    GoOn,
    StopAt(u32),
    Pair(u8, String),
    With { both: bool, number: Number },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToJson, FromJson)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum By {
    OneSelf,
    Signal { pid: i32, text: String },
    Other(Inside),
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, ToJson, FromJson)]
#[serde(transparent)]
struct Number(u64);

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToJson, FromJson)]
#[serde(default)]
struct Inside {
    address: Option<SocketAddr>,
    path: PathBuf,
    size: usize,
}

fn seven() -> u64 {
    7
}

fn all(verb: Verb, by: By) -> All {
    All {
        verb,
        n: u32::MAX,
        below: i64::MIN,
        maybe: Some(255),
        absent: None,
        texts: vec![
            String::new(),
            ('\0'..='\u{a0}').collect(),
            "\u{1f980}".into(),
        ],
        seven: u64::MAX,
        not: false,
        yes: true,
        by: Box::new(by),
        many: vec![
            (Number(1), Verb::GoOn, '"'),
            (Number(2), Verb::StopAt(3), 'ü'),
        ],
        by_number: Map::from([(10, Duration::from_millis(1_001)), (9, Duration::MAX)]),
        inside: Inside {
            address: Some(([127, 0, 0, 1], 80).into()),
            path: "/tmp/x".into(),
            size: 5,
        },
    }
}

fn texts() -> Vec<String> {
    let with = Verb::With {
        both: false,
        number: Number(0),
    };
    let signal = By::Signal {
        pid: -1,
        text: "kind".into(),
    };
    let values = [
        all(Verb::GoOn, By::OneSelf),
        all(Verb::Pair(1, "x".into()), By::Other(Inside::default())),
        all(with, signal),
    ];
    let text = |value: &All| {
        let text = serde_json::to_string(value).unwrap();
        let mut ours = b"before".to_vec();
        append(&mut ours, value).unwrap();
        assert_eq!(String::from_utf8(ours).unwrap(), format!("before{text}"));
        assert_eq!(from_str::<All>(&text).unwrap(), *value, "{text}");
        text
    };
    values.iter().map(text).collect()
}

#[test]
fn what_serde_has_written_is_read_as_it_was() {
    for text in texts() {
        let pretty: serde_json::Value = serde_json::from_str(&text).unwrap();
        let pretty = serde_json::to_string_pretty(&pretty).unwrap();
        let (ours, theirs) = (from_str::<All>(&pretty), serde_json::from_str(&pretty));
        assert_eq!(ours.unwrap(), theirs.unwrap());
    }
}

#[test]
fn what_is_there_twice_is_refused_wherever_it_is() {
    for text in texts() {
        for key in ["do", "yes", "maybe", "texts", "address"] {
            let first = text.replacen('{', &format!("{{\"{key}\":null,"), 1);
            let last = format!("{},\"{key}\":null}}", &text[..text.len() - 1]);
            for twice in [first, last] {
                let why = from_str::<All>(&twice).unwrap_err().to_string();
                assert_eq!(why, format!("{key}: it is there twice"), "{twice}");
                assert!(serde_json::from_str::<All>(&twice).is_err());
            }
        }
    }
}

const OTHERS: &[u8] = b"{}[]\",:\\01a-.e \0\xffnulx";

/// Damaged texts: nothing panics, and what is read or refused is what serde reads or refuses.
#[test]
fn what_is_damaged_is_taken_for_what_serde_takes_it_for() {
    let mut random = 11_u64;
    let mut below = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % 0xffff_ffff).unwrap() % n
    };
    let (mut read, mut refused) = (0, 0);
    for text in texts() {
        for _ in 0..6_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=below(2) {
                let at = below(bytes.len());
                let other = OTHERS[below(OTHERS.len())];
                match below(4) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes.insert(at, other),
                    2 => bytes.truncate(at + 1),
                    _ => bytes[at] = other,
                }
            }
            let what = String::from_utf8_lossy(&bytes).into_owned();
            match (
                from_slice::<All>(&bytes),
                serde_json::from_slice::<All>(&bytes),
            ) {
                (Ok(ours), Ok(theirs)) => {
                    assert_eq!(ours, theirs, "{what}");
                    read += 1;
                }
                (Err(_), Err(_)) => refused += 1,
                (Ok(_), Err(theirs)) => panic!("{what}: serde: {theirs}"),
                (Err(ours), Ok(_)) => panic!("{what}: ours: {ours}"),
            }
        }
    }
    assert!(read > 300 && refused > 300, "{read} {refused}");
}

#[test]
fn a_fault_says_where_and_what() {
    let why = |text: &str| from_str::<All>(text).unwrap_err().to_string();
    assert!(why("{").contains("EOF"));
    assert_eq!(why("{}"), "missing field `do`");
    assert_eq!(why("[]"), "[] is not an object");
    assert_eq!(why("{\"do\":\"go\"}"), "do: unknown variant `go`");
    assert_eq!(
        why("{\"do\":\"go-on\",\"n\":-1}"),
        "n: -1 is not a number that fits here"
    );
    assert_eq!(
        why("{\"do\":{\"with\":{\"both\":1}}}"),
        "do.both: 1 is not true or false"
    );
}
