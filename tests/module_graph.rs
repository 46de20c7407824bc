//! No circle of imports between the modules of a package.
//!
//! A node is a module file. An edge leads from the file that names an item to the file that defines it:
//!
//! - Every path counts that starts with `crate`, `super`, `self` or the name of a child module, in `use` lines and in code.
//!   Test modules, comments, strings and `pub(in …)` do not count.
//! - A path to a name that a module only imports or re-exports leads on to the module that defines it.
//! - `mod child;` is no edge. `pub use child::Item` is one only if the parent's own code uses `Item`. So a parent may
//!   present its children, or use them; but if it uses a child that uses the parent's items, that is a circle.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

#[test]
fn the_service_has_no_circle_of_imports() {
    assert_no_circle("src");
}

#[test]
fn the_sandbox_has_no_circle_of_imports() {
    assert_no_circle("sandbox/src");
}

/// Fails with the shortest circle of a crate whose root, `lib.rs` or `main.rs`, is in `directory`.
fn assert_no_circle(directory: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let roots = ["lib.rs", "main.rs"].map(|name| directory.join(name)).into_iter().filter(|root| root.is_file());
    let graphs: Vec<_> = roots.map(|root| CrateGraph::read(&root)).collect();
    assert!(!graphs.is_empty(), "{} has no crate", directory.display());
    for graph in graphs {
        let circle = shortest_circle(&graph.edges()).map(|modules| modules.join(" -> "));
        assert_eq!(circle, None, "in {}", directory.display());
    }
}

/// A module's path from the root of its crate, which is empty.
type ModulePath = Vec<String>;

/// The modules of one crate.
struct CrateGraph(BTreeMap<ModulePath, Module>);

/// What one file declares and names.
#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths outside `use` lines.
    paths: Vec<Vec<String>>,
    /// Words outside `use` lines.
    words: BTreeSet<String>,
}

/// A name that a `use` line brings in; `*` for a glob.
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

impl CrateGraph {
    fn read(root: &Path) -> Self {
        let mut graph = Self(BTreeMap::new());
        graph.add(Vec::new(), root, root.parent().unwrap());
        graph
    }

    /// Adds the module in `file` and those that it declares, whose files are in `directory`.
    fn add(&mut self, path: ModulePath, file: &Path, directory: &Path) {
        let module = Module::parse(&without_tests(&tokens(&fs::read_to_string(file).unwrap())));
        for child in &module.children {
            let path = [path.as_slice(), std::slice::from_ref(child)].concat();
            self.add(path, &directory.join(child).with_extension("rs"), &directory.join(child));
        }
        self.0.insert(path, module);
    }

    fn edges(&self) -> BTreeMap<String, BTreeSet<String>> {
        let name = |path: &ModulePath| if path.is_empty() { "crate".to_owned() } else { path.join("::") };
        let mut edges = BTreeMap::new();
        for (from, module) in &self.0 {
            let imports = module.imports.iter().filter(|each| !each.is_public || module.words.contains(&each.name));
            let paths = imports.map(|import| &import.path).chain(&module.paths);
            let targets = paths.filter_map(|path| self.resolve(from, path)).filter(|to| to != from);
            edges.insert(name(from), targets.map(|to| name(&to)).collect());
        }
        edges
    }

    /// The module that defines what `path` names when it stands in the module `from`; `None` in another crate.
    fn resolve(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let first = path.first()?;
        if !is_local(first, &self.0[from]) {
            return None;
        }
        let mut at = if first == "crate" { Vec::new() } else { from.clone() };
        for (index, segment) in path.iter().enumerate() {
            let module = &self.0[&at];
            if module.children.contains(segment) {
                at.push(segment.clone());
            } else if segment == "super" {
                at.pop()?;
            } else if segment != "crate" && segment != "self" {
                // The path's own `use` line must not lead back to itself.
                let import = module.imports.iter().find(|import| import.name == *segment && import.path != path);
                return match import {
                    Some(import) => self.resolve(&at, &[&import.path, &path[index + 1..]].concat()),
                    None => Some(at),
                };
            }
        }
        Some(at)
    }
}

impl Module {
    fn parse(tokens: &[String]) -> Self {
        let mut module = Self::default();
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let is_at = |offset: usize, text: &str| tokens.get(at + offset).is_some_and(|token| token == text);
            let before = if at == 0 { "" } else { &tokens[at - 1] };
            if is_at(0, "mod") && is_at(2, ";") {
                module.children.insert(tokens[at + 1].clone());
                at += 3;
            } else if is_at(0, "use") {
                let is_public = ["pub", ")"].contains(&before);
                let mut names = Vec::new();
                at = read_names(tokens, at + 1, &[], &mut names);
                module.imports.extend(names.into_iter().map(|(path, name)| Import { path, name, is_public }));
            } else if is_at(0, "in") && before == "(" {
                at += tokens[at..].iter().position(|token| token == ")").unwrap();
            } else if is_word(&tokens[at]) {
                let start = at;
                while is_word(&tokens[at]) && tokens.get(at + 1).is_some_and(|next| next == "::") {
                    at += 2;
                }
                at += 1;
                let path: Vec<_> = tokens[start..at].iter().filter(|token| is_word(token)).cloned().collect();
                module.words.extend(path.iter().cloned());
                paths.push(path);
            } else {
                at += 1;
            }
        }
        module.paths = paths.into_iter().filter(|path| path.len() > 1 && is_local(&path[0], &module)).collect();
        module
    }
}

fn is_local(first: &str, module: &Module) -> bool {
    ["crate", "self", "super"].contains(&first) || module.children.contains(first)
}

/// Reads what follows `use`: each whole path and the name that it gets. Returns where that ends.
fn read_names(tokens: &[String], mut at: usize, before: &[String], names: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = before.to_vec();
    let mut name = before.last().cloned().unwrap_or_default();
    loop {
        match tokens[at].as_str() {
            "{" => {
                while tokens[at] != "}" {
                    at = if tokens[at + 1] == "}" { at + 1 } else { read_names(tokens, at + 1, &path, names) };
                }
                return at + 1;
            }
            "as" => {
                name.clone_from(&tokens[at + 1]);
                at += 1;
            }
            "," | "}" | ";" => break,
            "::" => {}
            "self" if !path.is_empty() => {}
            word => {
                word.clone_into(&mut name);
                path.extend((word != "*").then(|| word.to_owned()));
            }
        }
        at += 1;
    }
    names.push((path, name));
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

/// Words, `::` and single signs; no comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|each: char| !(each.is_alphanumeric() || each == '_')).unwrap_or(rest.len());
        let raw = rest[word..].trim_start_matches('#');
        let hashes = &rest[word..rest.len() - raw.len()];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").unwrap() + 2
        } else if ["r", "br"].contains(&&rest[..word]) && raw.starts_with('"') {
            let body = word + hashes.len() + 1;
            body + rest[body..].find(&format!("\"{hashes}")).unwrap() + 1 + hashes.len()
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            let is_lifetime = !rest[1..].starts_with('\\') && rest.chars().nth(2) != Some('\'');
            if is_lifetime { 1 } else { quoted(rest, '\'') }
        } else {
            let length = if word > 0 { word } else { first.len_utf8() + usize::from(rest.starts_with("::")) };
            tokens.extend((!first.is_whitespace()).then(|| rest[..length].to_owned()));
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of the literal that `text` starts with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = text[1..].find(|each: char| {
        let is_end = each == quote && !escaped;
        escaped = each == '\\' && !escaped;
        is_end
    });
    end.unwrap() + 2
}

/// Leaves out each item below `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"].map(str::to_owned)) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        at += 7;
        loop {
            match tokens[at].as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && [";", "}"].contains(&tokens[at - 1].as_str()) {
                break;
            }
        }
    }
    kept
}

fn shortest_circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    edges.keys().filter_map(|start| shortest_way_back(edges, start)).min_by_key(Vec::len)
}

fn shortest_way_back(edges: &BTreeMap<String, BTreeSet<String>>, start: &String) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = VecDeque::from([vec![start.clone()]]);
    while let Some(way) = ways.pop_front() {
        for next in &edges[way.last()?] {
            let way = [way.as_slice(), std::slice::from_ref(next)].concat();
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back(way);
            }
        }
    }
    None
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    for (root, a, b, circle) in [
        ("mod a; mod b;", "use crate::b::B; pub struct A;", "use super::a::A; pub struct B;", Some("a -> b -> a")),
        ("mod a; mod b;", "fn a() { crate::b::b() }", "use super::{a::{self as first}};", Some("a -> b -> a")),
        ("mod a; mod b; pub use b::B;", "use super::B;", "use crate::a;", Some("a -> b -> a")),
        ("mod a; mod b; fn f() { a::g() }", "use super::f;", "", Some("a -> crate -> a")),
        ("mod a; mod b; pub use a::A; fn f(a: A) {}", "use super::f;", "", Some("a -> crate -> a")),
        ("mod a; mod b; pub use a::A; fn f() {}", "use super::f;", "", None),
        (
            "mod a; mod b;",
            "use crate::b; pub(in crate::b) fn f() {}",
            "// crate::a\nfn f() { r#\"crate::a\"#; '\"'; }",
            None,
        ),
        ("mod a; mod b;", "use crate::b;", "#[cfg(test)]\nmod tests { use crate::a; }", None),
    ] {
        let module = |text| Module::parse(&without_tests(&tokens(text)));
        let paths = [&[][..], &["a"], &["b"]].map(|path| path.iter().map(ToString::to_string).collect::<Vec<_>>());
        let graph = CrateGraph(paths.into_iter().zip([root, a, b].map(module)).collect());
        let found = shortest_circle(&graph.edges()).map(|modules| modules.join(" -> "));
        assert_eq!(found.as_deref(), circle, "{root} | {a} | {b}");
    }
}
