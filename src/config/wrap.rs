//! The configuration of wrap mode: one service from a command line, with the defaults of
//! any other, and its output left where superd's goes.

use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;

use super::files::Files;
use super::load::load_with;
use super::model::{Config, Output};
use super::template::is_template;
use super::value::service_name;
use crate::machine::spec::{Policy, Schedule};

/// A command to be wrapped.
#[derive(Clone, Debug)]
pub struct Wrapped<'a> {
    /// What it is called; a name as for a service.
    pub name: &'a str,
    /// Program and arguments.
    pub command: &'a [String],
    /// How it is stopped; none: the default.
    pub stop: Option<Schedule>,
    /// When it is started again.
    pub restart: Policy,
}

/// The configuration for one wrapped command.
///
/// # Errors
/// As of any configuration, without the places: nobody has written this file.
pub fn wrap(wrapped: &Wrapped<'_>) -> Result<Config, String> {
    let wrong = |why| format!("the name {:?}: {why}", wrapped.name);
    service_name(wrapped.name).map_err(wrong)?;
    if is_template(wrapped.name) {
        return Err(wrong(
            "one that ends in @ is that of a template, and this is a service",
        ));
    }
    let words: Vec<String> = wrapped.command.iter().map(|w| quote(w)).collect();
    let text = format!(
        "[service.{}]\ncommand = [{}]\nnotify = false\noutput = \"inherit\"\n",
        quote(wrapped.name),
        words.join(", ")
    );
    let mut config = load_with(Path::new(""), &mut Line(text)).map_err(|e| e.to_string())?;
    // A container's log tells it; nobody looks for a directory.
    config.daemon.crashes.written = false;
    for def in config.services.values_mut() {
        def.policy.restart.policy = wrapped.restart;
        if let Some(stop) = &wrapped.stop {
            def.policy.stop = Rc::new(stop.clone());
        }
        let mut program = (*def.program).clone();
        program.output = Output::Inherit;
        program.log_file = None;
        program.directory = here();
        def.program = Rc::new(program);
    }
    Ok(config)
}

/// The only file there is.
struct Line(String);

impl Files for Line {
    fn read(&mut self, _: &Path, _: usize) -> Result<Vec<u8>, String> {
        Ok(std::mem::take(&mut self.0).into_bytes())
    }

    fn list(&mut self, _: &Path) -> Result<Vec<OsString>, String> {
        Ok(Vec::new())
    }
}

/// A wrapped command runs where its wrapper was started.
fn here() -> Option<String> {
    let path = std::env::current_dir().ok()?;
    path.into_os_string().into_string().ok()
}

/// A basic string of TOML.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_has_no_place_in_a_file_that_nobody_wrote() {
        let fault = |name, command: &str| {
            let wrapped = Wrapped {
                name,
                command: &[command.to_owned()],
                stop: None,
                restart: Policy::Never,
            };
            wrap(&wrapped).unwrap_err()
        };
        let rule = "a name has 1 to 64 characters of A-Z a-z 0-9 _ . @ - and begins with a letter \
                    or digit";
        assert_eq!(fault("a b", "true"), format!("the name \"a b\": {rule}"));
        assert!(fault("a@", "true").starts_with("the name \"a@\": one that ends in @"));
        let text = "service \"x\": `command` has an empty program name";
        assert_eq!(fault("x", ""), text);
    }

    #[test]
    fn any_words_come_through_unchanged() {
        let command: Vec<String> = ["/bin/x", "", "a\"b\\c", "tab\tnl\ndel\u{7f}", "é ]#'"]
            .map(String::from)
            .to_vec();
        let wrapped = Wrapped {
            name: "x",
            command: &command,
            stop: None,
            restart: Policy::Never,
        };
        let config = wrap(&wrapped).unwrap();
        let def = config.services.values().next().unwrap();
        assert_eq!(def.program.command, command);
        assert_eq!(def.policy.restart.policy, Policy::Never);
        assert!(!config.daemon.crashes.written, "no files for a container");
    }
}
