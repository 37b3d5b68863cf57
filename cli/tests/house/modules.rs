//! Modules and what they import, read from `mod` and `use` lines and from paths that start at
//! `crate` or `super`.
//!
//! ```text
//! Cargo.toml -> package -> targets (src/lib.rs, src/main.rs, tests/*/main.rs) -> modules -> uses
//! ```
//!
//! A path is followed to the module that defines what it names, through re-exports, also into
//! another crate of ours.

use std::collections::BTreeMap;

use crate::source::{Source, sources};

/// A crate target and its modules.
pub(crate) struct Target {
    /// The name that other crates import it by; empty for programs and tests.
    pub(crate) name: String,
    /// Every module by its path (`["dataflow", "events"]`; the root's is empty).
    pub(crate) modules: BTreeMap<Vec<String>, Module>,
}

/// A module in a file of its own.
pub(crate) struct Module {
    /// The file, from the root of the repository.
    pub(crate) file: String,
    /// Every path that its code names, as written.
    paths: Vec<Vec<String>>,
    /// The names that `use` lines bring into it, and the path of each.
    names: BTreeMap<String, Vec<String>>,
    /// The paths of `use path::*`.
    globs: Vec<Vec<String>>,
    /// The items that it defines itself.
    items: Vec<String>,
}

/// All targets of the workspace.
pub(crate) struct Workspace {
    pub(crate) targets: Vec<Target>,
}

/// The place of a module: which target, and its path therein.
pub(crate) type Place = (usize, Vec<String>);

impl Workspace {
    pub(crate) fn read() -> Self {
        let files: BTreeMap<String, Source> = sources(&[".rs"])
            .into_iter()
            .map(|source| (source.path.clone(), source))
            .collect();
        let mut targets = Vec::new();
        for manifest in sources(&["Cargo.toml"]) {
            let Some(folder) = manifest.path.strip_suffix("/Cargo.toml") else {
                continue;
            };
            let package = field(&manifest.text, "name")
                .expect("a package has a name")
                .replace('-', "_");
            for file in files.keys().filter(|file| is_root(file, folder)) {
                let library = file.ends_with("/src/lib.rs");
                let mut modules = BTreeMap::new();
                read_module(&files, file, Vec::new(), &mut modules);
                let name = if library {
                    package.clone()
                } else {
                    String::new()
                };
                targets.push(Target { name, modules });
            }
        }
        Self { targets }
    }

    /// The places of the modules of ours that a module's code names, without itself.
    pub(crate) fn imports(&self, (target, path): &Place) -> Vec<Place> {
        let module = &self.targets[*target].modules[path];
        let mut found: Vec<Place> = module
            .paths
            .iter()
            .filter_map(|named| self.resolve(*target, path, named, 0))
            .filter(|place| place.0 != *target || place.1 != *path)
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// The file of a module.
    pub(crate) fn file(&self, (target, path): &Place) -> &str {
        &self.targets[*target].modules[path].file
    }

    /// The place of the library module that a file holds.
    pub(crate) fn place_of(&self, file: &str) -> Option<Place> {
        self.targets
            .iter()
            .enumerate()
            .find_map(|(number, target)| {
                let (path, _) = target
                    .modules
                    .iter()
                    .find(|(_, module)| module.file == file)?;
                Some((number, path.clone()))
            })
    }

    /// The module that defines what a path names, seen from the module at `from`.
    fn resolve(
        &self,
        target: usize,
        from: &[String],
        named: &[String],
        depth: usize,
    ) -> Option<Place> {
        let modules = &self.targets[target].modules;
        let (first, rest) = named.split_first()?;
        if depth > 8 {
            return None;
        }
        match first.as_str() {
            "crate" => self.descend(target, Vec::new(), rest, depth),
            "self" => self.descend(target, from.to_vec(), rest, depth),
            "super" => {
                let parent = from.split_last().map_or(&[][..], |(_, parent)| parent);
                if rest.first().is_some_and(|next| next == "super") {
                    return self.resolve(target, parent, rest, depth);
                }
                self.descend(target, parent.to_vec(), rest, depth)
            }
            name if modules.contains_key(&joined(from, name)) => {
                self.descend(target, from.to_vec(), named, depth)
            }
            name => {
                let library = self.targets.iter().position(|other| other.name == name)?;
                self.descend(library, Vec::new(), rest, depth)
            }
        }
    }

    /// Follows the rest of a path downwards, and through re-exports.
    fn descend(
        &self,
        target: usize,
        at: Vec<String>,
        rest: &[String],
        depth: usize,
    ) -> Option<Place> {
        let module = &self.targets[target].modules[&at];
        let Some((name, below)) = rest.split_first() else {
            return Some((target, at));
        };
        let child = joined(&at, name);
        if self.targets[target].modules.contains_key(&child) {
            return self.descend(target, child, below, depth);
        }
        if module.items.contains(name) {
            return Some((target, at));
        }
        let re_exported = module.names.get(name).and_then(|path| {
            let whole: Vec<String> = path.iter().chain(below).cloned().collect();
            self.resolve(target, &at, &whole, depth + 1)
        });
        let by_glob = || {
            module.globs.iter().find_map(|path| {
                let whole: Vec<String> = path.iter().chain(rest).cloned().collect();
                let place = self.resolve(target, &at, &whole, depth + 1)?;
                self.targets[place.0].modules[&place.1]
                    .items
                    .contains(name)
                    .then_some(place)
            })
        };
        re_exported.or_else(by_glob).or(Some((target, at)))
    }
}

/// `key = "value"` of a manifest.
pub(crate) fn field<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
    let line = manifest
        .lines()
        .find(|line| line.split('=').next().is_some_and(|k| k.trim() == key))?;
    line.split('"').nth(1)
}

fn is_root(file: &str, folder: &str) -> bool {
    let Some(within) = file
        .strip_prefix(folder)
        .and_then(|rest| rest.strip_prefix('/'))
    else {
        return false;
    };
    let mut parts = within.split('/');
    let place = [parts.next(), parts.next(), parts.next(), parts.next()];
    matches!(
        place,
        [Some("src"), Some("lib.rs" | "main.rs"), None, None]
            | [Some("tests"), Some(_), None, None]
            | [Some("tests"), Some(_), Some("main.rs"), None]
    )
}

fn joined(path: &[String], name: &str) -> Vec<String> {
    path.iter().cloned().chain([name.to_owned()]).collect()
}

fn read_module(
    files: &BTreeMap<String, Source>,
    file: &str,
    path: Vec<String>,
    modules: &mut BTreeMap<Vec<String>, Module>,
) {
    let code = &files[file].code;
    for (name, at) in child_modules(&files[file]) {
        let child = at.unwrap_or_else(|| {
            let (folder, stem) = file
                .trim_end_matches(".rs")
                .rsplit_once('/')
                .expect("a file is in a folder");
            let names_folder = path.is_empty() || stem == "mod";
            let base = if names_folder {
                folder.to_owned()
            } else {
                format!("{folder}/{stem}")
            };
            let flat = format!("{base}/{name}.rs");
            if files.contains_key(&flat) {
                flat
            } else {
                format!("{base}/{name}/mod.rs")
            }
        });
        if files.contains_key(&child) {
            read_module(files, &child, joined(&path, &name), modules);
        }
    }
    let mut module = Module {
        file: file.to_owned(),
        paths: Vec::new(),
        names: BTreeMap::new(),
        globs: Vec::new(),
        items: items(code),
    };
    read_uses(code, &mut module);
    modules.insert(path, module);
}

/// The modules that a file declares in files of their own: the name, and the file where `#[path]`
/// gives one.
fn child_modules(source: &Source) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut at = None;
    for (code, text) in source.code.lines().zip(source.text.lines()) {
        if let Some(path) = text
            .trim()
            .strip_prefix("#[path = \"")
            .and_then(|rest| rest.split('"').next())
        {
            let folder = source
                .path
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            at = Some(normal(&format!("{folder}/{path}")));
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        if let [.., "mod", name] = words[..]
            && let Some(name) = name.strip_suffix(';')
        {
            found.push((name.to_owned(), at.take()));
        }
    }
    found
}

/// `a/b/../c` is `a/c`.
pub(crate) fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names of the items that start in the first column.
fn items(code: &str) -> Vec<String> {
    code.lines()
        .filter_map(|line| item(line).map(|(_, name)| name.to_owned()))
        .collect()
}

/// The kind and name of the item that a line begins, where it begins one in the first column.
pub(crate) fn item(line: &str) -> Option<(&'static str, &str)> {
    const KINDS: [&str; 8] = [
        "struct", "enum", "trait", "type", "union", "fn", "const", "static",
    ];
    let mut rest = line;
    if rest.starts_with("pub") {
        rest = rest[3..].trim_start();
        if rest.starts_with('(') {
            rest = rest.split_once(')')?.1.trim_start();
        }
    }
    for modifier in ["async ", "unsafe ", "const fn "] {
        rest = match rest.strip_prefix(modifier) {
            Some(after) if modifier == "const fn " => return Some(("fn", name_at(after))),
            Some(after) => after,
            None => rest,
        };
    }
    KINDS.iter().find_map(|kind| {
        let after = rest.strip_prefix(kind)?.strip_prefix(' ')?;
        Some((*kind, name_at(after)))
    })
}

fn name_at(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// Reads every `use` tree and every path in the rest of the code.
fn read_uses(code: &str, module: &mut Module) {
    let mut others = String::new();
    let mut rest = code;
    while let Some(start) = next_use(rest) {
        others.push_str(&rest[..start]);
        let Some(end) = rest[start..].find(';') else {
            break;
        };
        let tree = rest[start..start + end].trim_start_matches("use").trim();
        let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
        read_tree(&tree, &[], module);
        rest = &rest[start + end..];
    }
    others.push_str(rest);
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for path in others
        .split(|c| !is_path(c))
        .filter(|path| path.contains("::"))
    {
        let path = path.trim_matches(':');
        module
            .paths
            .push(path.split("::").map(str::to_owned).collect());
    }
}

/// Where the next `use` line starts.
fn next_use(code: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = code[from..].find("use ") {
        let at = from + found;
        let before = code[..at].trim_end_matches([' ', '\t']);
        if before.is_empty() || before.ends_with(['\n', ')', '{', ';']) || before.ends_with("pub") {
            return Some(at);
        }
        from = at + 4;
    }
    None
}

/// One branch of a `use` tree: `a::{b, c::D as E, f::*}`.
fn read_tree(tree: &str, prefix: &[String], module: &mut Module) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some(open) = tree.find('{') {
        let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        let prefix = extended(prefix, &tree[..open]);
        for branch in branches(inner) {
            read_tree(branch, &prefix, module);
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut path = extended(prefix, path);
    match path.last().map(String::as_str) {
        None | Some("") => {}
        Some("*") => {
            path.pop();
            module.paths.push(path.clone());
            module.globs.push(path);
        }
        Some("self") if path.len() > 1 => {
            path.pop();
            let name = path.last().cloned().unwrap_or_default();
            module.names.insert(
                if alias.is_empty() {
                    name
                } else {
                    alias.to_owned()
                },
                path.clone(),
            );
            module.paths.push(path);
        }
        Some(name) => {
            let name = if alias.is_empty() { name } else { alias };
            module.names.insert(name.to_owned(), path.clone());
            module.paths.push(path);
        }
    }
}

fn extended(prefix: &[String], path: &str) -> Vec<String> {
    let parts = path
        .split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty());
    prefix.iter().cloned().chain(parts).collect()
}

/// The branches between commas that are in no inner braces.
fn branches(inner: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_usize, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&inner[start..]);
    found
        .into_iter()
        .filter(|branch| !branch.trim().is_empty())
        .collect()
}

#[test]
fn use_trees_are_read_to_their_leaves() {
    let mut module = Module {
        file: String::new(),
        paths: Vec::new(),
        names: BTreeMap::new(),
        globs: Vec::new(),
        items: Vec::new(),
    };
    let code = "pub use a::{B, c::{self, D as E}, f::*};\nfn g() { crate::h::i(super::j) }";
    read_uses(code, &mut module);
    let paths: Vec<String> = module.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        ["a::B", "a::c", "a::c::D", "a::f", "crate::h::i", "super::j"]
    );
    assert_eq!(module.names["E"], ["a", "c", "D"]);
    assert_eq!(module.globs, [["a", "f"]]);
}
