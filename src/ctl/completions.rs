//! Completion for bash, zsh and fish, made from the declarations in `args`. Only a test: what
//! is shipped in `packaging/completions` is held to them, and costs no byte in superctl.
//!
//!     SUPERD_WRITE=1 cargo test --lib shipped       writes files that are out of date anew
//!
//! (Past 400 lines because three shells say the same in three ways.)

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory, ValueHint};

use super::args::{Ctl, Later, Superd};
use crate::config::PRESETS;

/// What can stand in a place.
#[derive(Clone, PartialEq, Eq)]
enum Values {
    Nothing,
    Files,
    Services,
    Signals,
    Commands,
    Words(Vec<String>),
}

struct Flag {
    /// With its hyphens.
    names: Vec<String>,
    help: String,
    /// None: it takes none.
    value: Option<Values>,
}

/// A command with everything that may follow it.
struct Node {
    /// `/stop`; empty: the program itself.
    at: String,
    subcommands: Vec<(String, String)>,
    flags: Vec<Flag>,
    positional: Values,
}

/// superd's command line, with that of superctl in its place.
fn superd() -> Command {
    Superd::command().mut_subcommand("ctl", |ctl| {
        let about = ctl.get_about().cloned().unwrap_or_default();
        Later::put_together(Command::new("ctl").about(about))
    })
}

/// One line, as a shell's single quotes hold it.
fn help(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace(['\'', '`'], "")
}

fn values(arg: &Arg) -> Values {
    let name = arg.get_value_names().and_then(|n| n.first());
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let words = possible.iter().map(|v| v.get_name().to_owned());
        return Values::Words(words.collect());
    }
    match name.map_or("", |n| n.as_str()) {
        "PATH" => Values::Files,
        // `superd run --name` is a new name.
        "NAME" if arg.get_long().is_none() => Values::Services,
        "SIGNAL" => Values::Signals,
        "COMMAND" => Values::Commands,
        "STEPS" => Values::Words(PRESETS.iter().map(|p| (*p).to_owned()).collect()),
        "WHAT" => Values::Words(vec!["list".to_owned(), "call".to_owned()]),
        _ => match arg.get_value_hint() {
            ValueHint::AnyPath | ValueHint::FilePath => Values::Files,
            _ => Values::Nothing,
        },
    }
}

fn nodes(command: &Command) -> Vec<Node> {
    let mut command = command.clone();
    command.build();
    let mut found = Vec::new();
    add(&command, String::new(), &mut found);
    found
}

fn add(command: &Command, at: String, found: &mut Vec<Node>) {
    let subs = || command.get_subcommands().filter(|s| !s.is_hide_set());
    let flags = command.get_arguments().filter(|a| !a.is_positional());
    let flag = |arg: &Arg| {
        let long = arg.get_long().map(|l| format!("--{l}"));
        let short = arg.get_short().map(|s| format!("-{s}"));
        Flag {
            names: long.into_iter().chain(short).collect(),
            help: help(arg.get_help()),
            value: arg.get_action().takes_values().then(|| values(arg)),
        }
    };
    found.push(Node {
        subcommands: subs()
            .map(|s| (s.get_name().to_owned(), help(s.get_about())))
            .collect(),
        flags: flags.filter(|a| !a.is_hide_set()).map(flag).collect(),
        positional: command
            .get_positionals()
            .next()
            .map_or(Values::Nothing, values),
        at: at.clone(),
    });
    for sub in subs() {
        add(sub, format!("{at}/{}", sub.get_name()), found);
    }
}

/// The flags of all commands that take a value, for the walk over the words.
fn with_value(nodes: &[Node]) -> Vec<String> {
    let flags = nodes.iter().flat_map(|n| &n.flags);
    let mut names: Vec<String> = flags
        .filter(|f| f.value.is_some())
        .flat_map(|f| f.names.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn inner(nodes: &[Node]) -> Vec<&str> {
    let below = nodes.iter().filter(|n| !n.at.is_empty());
    below.map(|n| n.at.as_str()).collect()
}

const LIST: &str = "superctl status 2>/dev/null | awk 'NR > 1 { print $1 }'";

fn head(shell: &str, program: &str) -> String {
    format!(
        "# {program} in {shell}: made from the declarations of its command line, not by hand.\n"
    )
}

fn bash(program: &str, nodes: &[Node]) -> String {
    let f = program;
    let given = |v: &Values| match v {
        Values::Nothing => String::new(),
        Values::Files => "compgen -f -- \"$cur\"".to_owned(),
        Values::Services => format!("compgen -W \"$({LIST})\" -- \"$cur\""),
        Values::Signals => "compgen -A signal -- \"$cur\"".to_owned(),
        Values::Commands => "compgen -c -- \"$cur\"".to_owned(),
        Values::Words(words) => format!("compgen -W '{}' -- \"$cur\"", words.join(" ")),
    };
    let mut out = head("bash", program);
    write!(
        out,
        "_{f}() {{\n    local cur=${{COMP_WORDS[COMP_CWORD]}} at='' skip='' word i found=''\n    \
         COMPREPLY=()\n    for ((i = 1; i < COMP_CWORD; i++)); do\n        \
         word=${{COMP_WORDS[i]}}\n        if [[ $skip ]]; then skip=''; continue; fi\n        \
         case $word in\n        {}) skip=$word; continue ;;\n        --) return ;;\n        esac\n        \
         case $at/$word in\n        {}) at=$at/$word ;;\n        esac\n    done\n",
        with_value(nodes).join("|"),
        inner(nodes).join("|"),
    )
    .unwrap();
    out.push_str("    case $at:$skip in\n");
    for node in nodes {
        for flag in &node.flags {
            let Some(value) = &flag.value else { continue };
            let names: Vec<String> = flag
                .names
                .iter()
                .map(|n| format!("{}:{n}", node.at))
                .collect();
            writeln!(out, "    {}) found=$({}) ;;", names.join("|"), given(value)).unwrap();
        }
    }
    out.push_str("    *:)\n        case $at in\n");
    for node in nodes {
        let flags: Vec<&str> = node
            .flags
            .iter()
            .flat_map(|f| &f.names)
            .map(String::as_str)
            .collect();
        let subs: Vec<&str> = node.subcommands.iter().map(|(n, _)| n.as_str()).collect();
        let first = match (subs.as_slice(), given(&node.positional)) {
            ([], none) if none.is_empty() => ":".to_owned(),
            ([], given) => given,
            (subs, _) => format!("compgen -W '{}' -- \"$cur\"", subs.join(" ")),
        };
        writeln!(
            out,
            "        {:?})\n            if [[ $cur == -* ]]; then found=$(compgen -W '{}' -- \"$cur\")\n            \
             else found=$({first}); fi ;;",
            node.at,
            flags.join(" "),
        )
        .unwrap();
    }
    write!(
        out,
        "        esac ;;\n    esac\n    local IFS=$'\\n'\n    COMPREPLY=($found)\n}}\n\
         complete -o filenames -F _{f} {program}\n"
    )
    .unwrap();
    out
}

fn zsh(program: &str, nodes: &[Node]) -> String {
    let given = |v: &Values| match v {
        Values::Nothing => ":".to_owned(),
        Values::Files => "_files".to_owned(),
        Values::Services => format!("compadd -- ${{(f)\"$({LIST})\"}}"),
        Values::Signals => "compadd -- $signals".to_owned(),
        Values::Commands => "_command_names -e".to_owned(),
        Values::Words(words) => format!("compadd -- {}", words.join(" ")),
    };
    let item = |name: &str, help: &str| format!("'{}:{}'", name, help.replace(':', "\\:"));
    let mut out = format!("#compdef {program}\n{}", head("zsh", program));
    write!(
        out,
        "_{program}() {{\n    local at='' skip='' word\n    local -a flags commands\n    \
         for word in ${{words[2,CURRENT-1]}}; do\n        \
         if [[ -n $skip ]]; then skip=''; continue; fi\n        case $word in\n        \
         ({}) skip=$word; continue ;;\n        (--) _normal; return ;;\n        esac\n        \
         case $at/$word in\n        ({}) at=$at/$word ;;\n        esac\n    done\n    \
         case $at:$skip in\n",
        with_value(nodes).join("|"),
        inner(nodes).join("|"),
    )
    .unwrap();
    for node in nodes {
        for flag in &node.flags {
            let Some(value) = &flag.value else { continue };
            let names: Vec<String> = flag
                .names
                .iter()
                .map(|n| format!("{}:{n}", node.at))
                .collect();
            writeln!(out, "    ({}) {}; return ;;", names.join("|"), given(value)).unwrap();
        }
    }
    out.push_str("    (*:?*) return ;;\n    esac\n    case $at in\n");
    for node in nodes {
        let flags: Vec<String> = node
            .flags
            .iter()
            .flat_map(|f| f.names.iter().map(|n| item(n, &f.help)))
            .collect();
        let subs: Vec<String> = node.subcommands.iter().map(|(n, h)| item(n, h)).collect();
        let first = match subs.is_empty() {
            true => given(&node.positional),
            false => format!(
                "commands=(\n            {}\n        ); _describe command commands",
                subs.join("\n            ")
            ),
        };
        writeln!(
            out,
            "    ('{}')\n        flags=(\n            {}\n        )\n        \
             if [[ $PREFIX == -* ]]; then _describe option flags; else {first}; fi ;;",
            node.at,
            flags.join("\n            "),
        )
        .unwrap();
    }
    write!(out, "    esac\n}}\n_{program} \"$@\"\n").unwrap();
    out
}

fn fish(program: &str, nodes: &[Node]) -> String {
    let given = |v: &Values| match v {
        Values::Nothing => " -x".to_owned(),
        Values::Files => " -r -F".to_owned(),
        Values::Services => format!(" -x -a \"({LIST})\"").replace('$', "\\$"),
        Values::Signals => " -x -a 'TERM HUP INT QUIT USR1 USR2 KILL'".to_owned(),
        Values::Commands => " -x -a '(__fish_complete_command)'".to_owned(),
        Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
    };
    let mut out = head("fish", program);
    let skip: Vec<String> = with_value(nodes).iter().map(|f| format!("'{f}'")).collect();
    let all: Vec<String> = inner(nodes).iter().map(|p| format!("'{p}'")).collect();
    write!(
        out,
        "function __{program}_is_at --argument-names wanted\n    set -l at ''\n    set -l skip ''\n    \
         for word in (commandline -opc)[2..-1]\n        if test -n \"$skip\"\n            \
         set skip ''\n            continue\n        end\n        switch $word\n            \
         case {}\n                set skip $word\n            case '*'\n                \
         if contains -- \"$at/$word\" {}\n                    set at \"$at/$word\"\n                \
         end\n        end\n    end\n    test \"$at\" = \"$wanted\"\nend\n\
         complete -c {program} -f\n",
        skip.join(" "),
        all.join(" "),
    )
    .unwrap();
    for node in nodes {
        let when = format!(
            "complete -c {program} -n \"__{program}_is_at '{}'\"",
            node.at
        );
        for (name, help) in &node.subcommands {
            writeln!(out, "{when} -a {name} -d '{help}'").unwrap();
        }
        for flag in &node.flags {
            let mut names = String::new();
            for name in &flag.names {
                match name.strip_prefix("--") {
                    Some(long) => write!(names, " -l {long}").unwrap(),
                    None => write!(names, " -s {}", name.trim_start_matches('-')).unwrap(),
                }
            }
            let value = flag.value.as_ref().map_or(String::new(), given);
            writeln!(out, "{when}{names}{value} -d '{}'", flag.help).unwrap();
        }
        if node.subcommands.is_empty() && node.positional != Values::Nothing {
            writeln!(out, "{when}{}", given(&node.positional)).unwrap();
        }
    }
    out
}

fn files() -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions");
    let mut files = Vec::new();
    for (program, command) in [("superctl", Ctl::command()), ("superd", superd())] {
        let nodes = nodes(&command);
        files.push((dir.join(format!("{program}.bash")), bash(program, &nodes)));
        files.push((dir.join(format!("_{program}")), zsh(program, &nodes)));
        files.push((dir.join(format!("{program}.fish")), fish(program, &nodes)));
    }
    files
}

#[test]
fn the_shipped_completions_are_those_of_the_command_line() {
    for (path, text) in files() {
        crate::shipped::assert_is(&path, &text);
    }
}

/// What bash offers for the words of a line, of which the last one is unfinished.
fn offered(file: &str, line: &[&str], path: &str) -> Vec<String> {
    let words: Vec<String> = line.iter().map(|w| format!("'{w}'")).collect();
    let script = format!(
        "PATH={path:?}:$PATH; source packaging/completions/{file}.bash; COMP_WORDS=({}); \
         COMP_CWORD={}; _{file}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        line.len() - 1
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn bash_completes_commands_flags_and_services() {
    // A superctl that knows two services.
    let dir = std::env::temp_dir().join(format!("superd-completion-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let ctl = dir.join("superctl");
    std::fs::write(
        &ctl,
        "#!/bin/sh\n[ $* = status ] && printf 'NAME STATE\\ncaddy up\\ncam@one down\\n'\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&ctl, mode).unwrap();
    let path = dir.display().to_string();
    let ctl = |line: &[&str]| offered("superctl", line, &path);
    assert_eq!(ctl(&["superctl", "sto"]), ["stop"]);
    assert!(ctl(&["superctl", ""]).contains(&"status".to_owned()));
    assert_eq!(ctl(&["superctl", "stop", "--no"]), ["--no-wait", "--now"]);
    assert_eq!(ctl(&["superctl", "stop", ""]), ["caddy", "cam@one"]);
    assert_eq!(
        ctl(&["superctl", "--timeout", "stop", "logs", "--json", "ca"]),
        ["caddy", "cam@one"]
    );
    assert_eq!(ctl(&["superctl", "stop", "cad"]), ["caddy"]);
    assert!(ctl(&["superctl", "stop", "--timeout", ""]).is_empty());
    assert!(ctl(&["superctl", "doctor", ""]).is_empty());
    assert!(ctl(&["superctl", "check", "--config", "Cargo.to"]).contains(&"Cargo.toml".to_owned()));
    let d = |line: &[&str]| offered("superd", line, &path);
    assert_eq!(d(&["superd", "ctl", "restart", "cam"]), ["cam@one"]);
    assert_eq!(d(&["superd", "run", "--restart", "on"]), ["on-failure"]);
    assert_eq!(d(&["superd", "run", "--stop", "cad"]), ["caddy-api"]);
    assert!(!d(&["superd", ""]).contains(&"demo-child".to_owned()));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn zsh_and_fish_can_read_theirs_where_they_are_installed() {
    for (shell, file) in [
        ("zsh", "_superctl"),
        ("zsh", "_superd"),
        ("fish", "superctl.fish"),
        ("fish", "superd.fish"),
        ("bash", "superctl.bash"),
        ("bash", "superd.bash"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packaging/completions")
            .join(file);
        let read = std::process::Command::new(shell)
            .arg("-n")
            .arg(&path)
            .output();
        match read {
            Ok(said) => assert!(said.status.success(), "{file}: {said:?}"),
            Err(e) => eprintln!("skipped: {file}: {shell}: {e}"),
        }
    }
}

/// Readable on a serial console, also for a busybox terminal.
#[test]
fn help_fits_into_eighty_columns_and_has_no_escapes() {
    for command in [Ctl::command(), superd()] {
        let mut command = command;
        command.build();
        let mut todo = vec![command];
        while let Some(mut command) = todo.pop() {
            todo.extend(command.get_subcommands().cloned());
            let name = command.get_name().to_owned();
            for text in [
                command.render_help().to_string(),
                command.render_long_help().to_string(),
            ] {
                for line in text.lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                    assert!(!line.contains(char::is_control), "{name}: {line:?}");
                }
            }
        }
    }
}
