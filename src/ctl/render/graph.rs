//! The graph of services: a table in the order of starts, and the same for graphviz.

use std::fmt::Write as _;

use crate::control::reply::Node;

use super::{table as lay_out, Style};

/// A line for each service, those first that wait for nobody.
pub fn table(nodes: &[Node], style: Style) -> String {
    let head = ["START", "SERVICE", "STATE", "NEEDS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for node in nodes {
        let mut needs = Vec::new();
        for (what, names) in edges(node) {
            if !names.is_empty() {
                needs.push(format!("{what} {}", names.join(", ")));
            }
        }
        rows.push(vec![
            node.level.to_string(),
            style.line(&node.service),
            style.line(&node.state),
            match needs.is_empty() {
                true => "-".to_owned(),
                false => style.line(&needs.join("; ")),
            },
        ]);
    }
    match nodes.is_empty() {
        true => String::new(),
        false => lay_out(&rows),
    }
}

fn edges(node: &Node) -> [(&'static str, &[String]); 5] {
    [
        ("requires", &node.requires),
        ("wants", &node.wants),
        ("after", &node.after),
        ("restarted with", &node.restart_with),
        ("conflicts with", &node.conflicts),
    ]
}

/// A digraph: an arrow from each service to what it waits for, dashed for `wants`, dotted for
/// `after`, bold and blue for `restart-with`, red without heads between those that conflict.
pub fn dot(nodes: &[Node]) -> String {
    let mut out = "digraph superd {\n  rankdir = BT;\n  node [shape = box];\n".to_owned();
    let mut line = |text: String| writeln!(out, "  {text}").ok(); // a String takes everything
    for node in nodes {
        let name = quoted(&node.service);
        let label = format!("\"{}\\n{}\"", clean(&node.service), clean(&node.state));
        line(format!("{name} [label = {label}];"));
        for (to, style) in node
            .requires
            .iter()
            .map(|n| (n, "solid"))
            .chain(node.wants.iter().map(|n| (n, "dashed")))
            .chain(node.after.iter().map(|n| (n, "dotted")))
        {
            line(format!("{name} -> {} [style = {style}];", quoted(to)));
        }
        for to in &node.restart_with {
            line(format!(
                "{name} -> {} [style = bold, color = blue];",
                quoted(to)
            ));
        }
        // Each knows of the other; once is enough.
        for rival in node.conflicts.iter().filter(|r| **r > node.service) {
            let how = "dir = none, color = red, constraint = false";
            line(format!("{name} -> {} [{how}];", quoted(rival)));
        }
    }
    out.push_str("}\n");
    out
}

/// Names come from a socket: what could end the string is left out.
fn clean(text: &str) -> String {
    let ends = |c: &char| matches!(c, '"' | '\\') || c.is_control();
    text.chars().filter(|c| !ends(c)).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", clean(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<Node> {
        let node = |service: &str, state: &str, level| Node {
            service: service.to_owned(),
            state: state.to_owned(),
            level,
            ..Node::default()
        };
        vec![
            Node {
                conflicts: vec!["slow".to_owned()],
                ..node("db", "up", 1)
            },
            Node {
                conflicts: vec!["db".to_owned()],
                ..node("slow", "down", 1)
            },
            Node {
                requires: vec!["db".to_owned()],
                wants: vec!["mail".to_owned()],
                after: vec!["net".to_owned(), "log".to_owned()],
                restart_with: vec!["db".to_owned(), "tls".to_owned()],
                ..node("web", "starting", 2)
            },
        ]
    }

    #[test]
    fn a_line_for_each_service_in_the_order_of_starts() {
        let text = table(&nodes(), Style::new(false));
        assert_eq!(
            text,
            "START  SERVICE  STATE     NEEDS\n\
             1      db       up        conflicts with slow\n\
             1      slow     down      conflicts with db\n\
             2      web      starting  requires db; wants mail; after net, log; restarted with db, tls\n"
        );
        assert_eq!(table(&[], Style::new(false)), "");
    }

    #[test]
    fn an_arrow_for_each_dependency_and_names_stay_names() {
        let text = dot(&nodes());
        for line in [
            "  \"web\" [label = \"web\\nstarting\"];\n",
            "  \"web\" -> \"db\" [style = solid];\n",
            "  \"web\" -> \"mail\" [style = dashed];\n",
            "  \"web\" -> \"log\" [style = dotted];\n",
            "  \"web\" -> \"tls\" [style = bold, color = blue];\n",
            "  \"db\" -> \"slow\" [dir = none, color = red, constraint = false];\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(text.matches("color = red").count(), 1);
        assert_eq!(quoted("a\"];\nb\\"), "\"a];b\"");
    }
}
