//! What the chart renders to, over a matrix of values; that each value does something, is described and has a bound; and that
//! what stands twice is the same twice. No cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rerank_crds::RerankDeployment;
use rerank_operator::controller::build::{Replacement, Settings, build};
use rerank_operator::controller::validate::validate;
use rerank_tests::api_server::binaries;
use rerank_tests::http::{Finished, root, server_binary};
use serde::Deserialize;
use serde_json::{Value, json};

const NAMESPACE: &str = "rerank-system";

fn chart() -> PathBuf {
    root().join("charts/rerank-operator")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = chart().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a committed file of the chart with what the test makes of its sources.
fn assert_committed(path: impl AsRef<Path>, made: &str) {
    let path = chart().join(path);
    let is_current = || fs::read_to_string(&path).is_ok_and(|committed| committed == made);
    // What is current is left alone: other tests may be reading it.
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !is_current() {
        fs::write(&path, made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let first = committed.lines().zip(made.lines()).find(|(committed, made)| committed != made);
    assert!(
        committed == made,
        "{} is not current; UPDATE_GOLDEN=1 cargo test --workspace --test the_chart_says_what_it_does writes it. \
         First difference: {first:?}",
        path.display()
    );
}

/// Runs helm without anybody's settings.
fn helm(arguments: &[&str]) -> Finished {
    let program = binaries::folder(|name| std::env::var_os(name)).unwrap().join("helm");
    assert!(
        program.is_file(),
        "{} is missing; `make api-server` without KUBEBUILDER_ASSETS builds it",
        program.display()
    );
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME"] {
        command.env(name, home.path());
    }
    command.args(arguments).env_remove("KUBECONFIG").env_remove("HELM_NAMESPACE").output().unwrap().into()
}

/// Runs `helm template` with values and further arguments.
fn template(values: &Value, arguments: &[&str]) -> Finished {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    let chart = chart();
    let mut all = vec!["template", "rerank-operator", chart.to_str().unwrap(), "--namespace", NAMESPACE];
    all.extend(["--values", file.path().to_str().unwrap()]);
    all.extend(arguments);
    helm(&all)
}

fn render(values: &Value) -> String {
    let finished = template(values, &[]);
    assert_eq!(finished.code, Some(0), "{values}: {}", finished.stderr);
    finished.stdout
}

fn documents(rendered: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(rendered).map(|one| Value::deserialize(one).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn of_kind(rendered: &str, kind: &str) -> Value {
    documents(rendered).into_iter().find(|document| document["kind"] == kind).unwrap_or_default()
}

/// The cases of the matrix: name and values.
fn cases() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(chart().join("tests/cases")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} does not say what it is about", path.display());
        found.push((path.file_stem().unwrap().to_str().unwrap().to_owned(), serde_yaml::from_str(&text).unwrap()));
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    assert!(found.len() >= 10, "{}", found.len());
    found
}

fn case(name: &str) -> Value {
    cases().into_iter().find(|(other, _)| other == name).unwrap().1
}

/// A value of `values.yaml` that stands for itself: its path, what its comment says, and its default as it is written.
#[derive(Debug)]
struct Leaf {
    path: Vec<String>,
    comment: String,
    default: String,
}

impl Leaf {
    fn pointer(&self) -> String {
        format!("/{}", self.path.join("/"))
    }
}

/// Reads `values.yaml` as text, since its comments are wanted. Every key has its value on its own line or is a group.
fn leaves() -> Vec<Leaf> {
    let text = read("values.yaml");
    let (mut found, mut groups, mut comment) = (Vec::new(), Vec::<String>::new(), String::new());
    for line in text.lines() {
        let content = line.trim_start();
        let depth = (line.len() - content.len()) / 2;
        if let Some(words) = content.strip_prefix("# -- ") {
            assert!(comment.is_empty(), "two comments before a value: {line}");
            words.clone_into(&mut comment);
        } else if !content.is_empty() && !content.starts_with('#') {
            let (key, value) = content.split_once(':').unwrap_or_else(|| panic!("not a key: {line}"));
            groups.truncate(depth);
            groups.push(key.to_owned());
            let default = value.trim().to_owned();
            assert_eq!(
                default.is_empty(),
                comment.is_empty(),
                "a value has a comment with `--`, a group has none: {line}"
            );
            if !default.is_empty() {
                found.push(Leaf { path: groups.clone(), comment: std::mem::take(&mut comment), default });
            }
        }
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// What is printed after an installation.
fn notes(values: &Value) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    let chart = chart();
    let install = ["install", "rerank-operator", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--dry-run=client"];
    let finished = helm(&[&install[..], &["--values", file.path().to_str().unwrap()]].concat());
    assert_eq!(finished.code, Some(0), "{values}: {}", finished.stderr);
    finished.stdout.split_once("\nNOTES:\n").unwrap().1.to_owned()
}

/// What a golden file shows: all of it but the long definition's spec, which is a copy.
fn shown(rendered: &str) -> String {
    let documents = rendered.split_inclusive("---\n").map(|document| match document.split_once("\nspec:\n") {
        Some((head, _)) if document.contains("/templates/crd.yaml") => {
            format!("{head}\nspec: as in crds/rerankdeployments.yaml\n---\n")
        }
        _ => document.to_owned(),
    });
    documents.collect()
}

#[test]
fn every_case_renders_to_its_golden_file() {
    // Where files are written anew, what is rendered is written first.
    assert_committed("templates/crd.yaml", &definition_template());
    assert_committed("templates/rbac.yaml", &with_tested_rules(&read("templates/rbac.yaml")));
    let mut names = BTreeSet::new();
    for (name, values) in cases() {
        assert_committed(
            format!("tests/golden/{name}.yaml"),
            &format!("{}---\nNOTES:\n{}", shown(&render(&values)), notes(&values)),
        );
        names.insert(format!("{name}.yaml"));
    }
    let golden = fs::read_dir(chart().join("tests/golden")).unwrap();
    let golden: BTreeSet<_> = golden.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(golden, names, "a golden file of no case");
}

#[test]
fn every_value_changes_what_some_case_renders() {
    let cases: Vec<_> = cases().into_iter().map(|(name, values)| (name, render(&values), values)).collect();
    let leaves = leaves();
    let mut shown = BTreeSet::new();
    for leaf in &leaves {
        let (key, group) = leaf.path.split_last().unwrap();
        let group = group.iter().map(|name| format!("/{name}")).collect::<String>();
        for (name, rendered, values) in cases.iter().filter(|(_, _, values)| values.pointer(&leaf.pointer()).is_some())
        {
            let mut without = values.clone();
            without.pointer_mut(&group).unwrap().as_object_mut().unwrap().remove(key);
            // What needs it to be understood at all shows its effect too.
            let rendered_without = template(&without, &[]);
            assert!(rendered_without.stdout != *rendered, "case {name} sets {} to no effect", leaf.pointer());
            shown.insert(leaf.pointer());
        }
    }
    let idle: Vec<_> = leaves.iter().map(Leaf::pointer).filter(|pointer| !shown.contains(pointer)).collect();
    assert!(idle.is_empty(), "no case shows what these do: {idle:#?}");
    println!("{} values, each with an effect, over {} cases", leaves.len(), cases.len());
}

/// Visits every value that the schema knows: whatever has no properties of its own, or stands in `values.yaml` as a whole.
fn known(path: &str, schema: &mut Value, wholes: &BTreeSet<String>, visit: &mut impl FnMut(&str, &mut Value)) {
    if wholes.contains(path) || schema["properties"].is_null() {
        return visit(path, schema);
    }
    for (name, inner) in schema["properties"].as_object_mut().unwrap() {
        known(&format!("{path}/{name}"), inner, wholes, visit);
    }
}

#[test]
fn the_schema_knows_every_value_and_says_what_the_comment_says() {
    let mut schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let leaves = leaves();
    let wholes: BTreeSet<String> = leaves.iter().map(Leaf::pointer).collect();
    let mut unknown = wholes.clone();
    known("", &mut schema, &wholes, &mut |path, place| {
        // Helm gives it to every chart that is part of another.
        if path != "/global" {
            assert!(unknown.remove(path), "{path} stands in the schema but not in values.yaml");
            let leaf = leaves.iter().find(|leaf| leaf.pointer() == path).unwrap();
            place["description"] = json!(leaf.comment);
        }
    });
    assert!(unknown.is_empty(), "the schema does not know {unknown:?}");
    assert_committed("values.schema.json", &format!("{}\n", serde_json::to_string_pretty(&schema).unwrap()));
}

/// Every place of the values that has names, by its pointer.
fn groups(path: &str, value: &Value, found: &mut Vec<String>) {
    if let Some(fields) = value.as_object().filter(|fields| path.is_empty() || !fields.is_empty()) {
        found.push(path.to_owned());
        fields.iter().for_each(|(name, inner)| groups(&format!("{path}/{name}"), inner, found));
    }
}

#[test]
fn every_string_list_and_number_of_the_schema_is_bounded_and_no_object_takes_what_it_does_not_know() {
    fn walk(path: &str, schema: &Value, objects: &mut usize) {
        if schema["type"] == "object" && path != "/global" && !path.starts_with("/affinity/") {
            *objects += 1;
            let others = &schema["additionalProperties"];
            assert!(*others == json!(false) || *others == json!({"type": "string"}), "{path} takes {others}");
        }
        if schema["type"] == "integer" {
            assert!(schema["minimum"].is_i64() || path.ends_with("tolerationSeconds"), "{path}");
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}/{name}"), inner, objects);
        }
        if schema["items"].is_object() {
            walk(&format!("{path}/-"), &schema["items"], objects);
        }
    }
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut objects = 0;
    walk("", &schema, &mut objects);
    assert!(objects > 25, "{objects}");
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let defaults: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    assert!(validator.is_valid(&defaults), "the defaults keep to it");
    let wholes: Vec<String> = leaves().iter().map(Leaf::pointer).collect();
    // At every place where values.yaml has a name, another is refused.
    let mut found = Vec::new();
    groups("", &defaults, &mut found);
    assert!(found.len() > 15, "{found:?}");
    for group in found {
        // A value that is set to null would leave a hole, such as a rule without ports, which allows every port.
        let place = schema.pointer(&group.replace('/', "/properties/")).unwrap();
        let names: BTreeSet<&str> =
            defaults.pointer(&group).unwrap().as_object().unwrap().keys().map(String::as_str).collect();
        let required: Option<BTreeSet<&str>> =
            place["required"].as_array().map(|all| all.iter().filter_map(Value::as_str).collect());
        assert!(
            wholes.iter().any(|whole| group.starts_with(whole)) || required == Some(names),
            "{group}: {required:?}"
        );
        let mut wrong = defaults.clone();
        wrong.pointer_mut(&group).unwrap()["surplus"] = json!("x");
        assert!(!validator.is_valid(&wrong), "{group} takes a name that it does not know");
    }
}

/// What is wrong, as `--set` has it, and the words of helm's error that tell where and what is allowed.
const WRONG: [(&str, &[&str]); 17] = [
    ("replica=2", &["replica", "additional properties"]),
    ("replicas=-1", &["/replicas", "minimum"]),
    ("replicas=two", &["/replicas", "integer"]),
    ("scope=world", &["/scope", "'cluster', 'namespace'"]),
    ("crds.enabled=maybe", &["/crds/enabled", "boolean"]),
    ("crds.kept=true", &["/crds", "kept"]),
    ("images.pullPolicy=Sometimes", &["/images/pullPolicy", "IfNotPresent"]),
    ("images.operator.digest=abc", &["/images/operator/digest", "sha256:"]),
    ("images.server.tag=abc", &["/images", "'server'"]),
    ("log.format=xml", &["/log/format", "'json', 'text'"]),
    ("admin.port=80", &["/admin/port", "minimum"]),
    ("admin.address=localhost", &["/admin/address", "pattern"]),
    ("lease.name=", &["/lease/name", "minLength"]),
    ("test.apiKeySecret.name=keys", &["/test/apiKeySecret/key", "minLength"]),
    ("test.url=docs", &["/test/url", "http"]),
    ("networkPolicy.apiServerPorts=null", &["/networkPolicy", "missing property 'apiServerPorts'"]),
    ("podMonitor.intervalSeconds=0", &["/podMonitor/intervalSeconds", "minimum"]),
];

#[test]
fn wrong_values_are_refused_by_their_name() {
    for (wrong, words) in WRONG {
        let refused = template(&json!({}), &["--set", wrong]);
        assert_ne!(refused.code, Some(0), "{wrong} is taken: {}", refused.stdout.len());
        for word in words {
            assert!(refused.stderr.contains(word), "{wrong}: {word} is not in {}", refused.stderr);
        }
    }
}

#[test]
fn lint_has_nothing_to_say() {
    let chart = chart();
    let linted = helm(&["lint", "--strict", chart.to_str().unwrap()]);
    assert_eq!(linted.code, Some(0), "{linted:?}");
    for word in ["[WARNING]", "[ERROR]"] {
        assert!(!linted.stdout.contains(word), "{linted:?}");
    }
}

#[test]
fn a_kubernetes_that_is_too_old_is_refused() {
    let version = |version: &str| template(&json!({}), &["--kube-version", version]);
    assert!(version("1.33.9").stderr.contains("incompatible"), "{:?}", version("1.33.9").stderr);
    for served in ["1.34.0", "1.34.1-gke.100", "1.37.2"] {
        assert_eq!(version(served).code, Some(0), "{served}");
    }
}

/// The template of the definition: a copy that can be left out and is kept.
fn definition_template() -> String {
    let original = fs::read_to_string(root().join("crds/rerankdeployments.yaml")).unwrap();
    assert_eq!(original.matches("\nmetadata:\n").count(), 1);
    assert!(!original.contains("{{"), "helm would take it for a template");
    let metadata = "\nmetadata:\n  labels:\n    {{- include \"rerank-operator.labels\" . | nindent 4 }}\n  {{- if .Values.crds.keep }}\n  \
                    annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n";
    format!(
        "{{{{- /* Made from crds/rerankdeployments.yaml; a test compares the two and, with UPDATE_GOLDEN=1, writes this file. */}}}}\n\
         {{{{- if .Values.crds.enabled }}}}\n{}{{{{- end }}}}\n",
        original.replace("\nmetadata:\n", metadata)
    )
}

#[test]
fn the_definition_is_a_copy_that_can_be_left_out_and_is_kept() {
    assert_committed("templates/crd.yaml", &definition_template());
    let original = fs::read_to_string(root().join("crds/rerankdeployments.yaml")).unwrap();
    let definition = of_kind(&render(&json!({})), "CustomResourceDefinition");
    let original: Value = serde_yaml::from_str(&original).unwrap();
    assert_eq!(definition["spec"], original["spec"]);
    assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert!(of_kind(&render(&case("namespace")), "CustomResourceDefinition").is_null());
    let unkept = of_kind(&render(&case("flags")), "CustomResourceDefinition");
    assert!(unkept["spec"].is_object() && unkept["metadata"]["annotations"].is_null());
}

/// The lines of the rules of each role in a file of several documents, comments and all.
fn rules(text: &str) -> Vec<String> {
    let roles = text.split("---\n").filter_map(|document| document.split_once("\nrules:\n"));
    roles.map(|(_, rules)| rules.trim_end().to_owned()).collect()
}

/// The template of the roles with the rules that the operator is tested with instead of its own.
fn with_tested_rules(template: &str) -> String {
    let tested = ["cluster.yaml", "namespaced.yaml"]
        .iter()
        .flat_map(|file| rules(&fs::read_to_string(root().join("operator/rbac").join(file)).unwrap()));
    let lease = ("resourceNames: [rerank-operator]", "resourceNames: [{{ .Values.lease.name }}]");
    let mut parts = template.split("\nrules:\n");
    let mut made = parts.next().unwrap().to_owned();
    let (parts, tested): (Vec<&str>, Vec<String>) = (parts.collect(), tested.collect());
    assert_eq!(parts.len(), tested.len(), "a role of the one and not of the other");
    for (part, rules) in parts.into_iter().zip(tested) {
        let (_, after) = part.split_once("\n---\n").unwrap();
        made += &["\nrules:\n", &rules.replace(lease.0, lease.1), "\n---\n", after].concat();
    }
    made
}

/// The rules for which the operator is tested against the API server's record are those that the chart grants.
#[test]
fn the_rules_are_those_that_the_operator_is_tested_with_and_each_has_its_comment() {
    assert_committed("templates/rbac.yaml", &with_tested_rules(&read("templates/rbac.yaml")));
    for (file, name) in [("cluster.yaml", "default"), ("namespaced.yaml", "namespace")] {
        let tested = rules(&fs::read_to_string(root().join("operator/rbac").join(file)).unwrap());
        let rendered = render(&case(name));
        let own: String =
            rendered.split_inclusive("---\n").filter(|one| one.contains("/templates/rbac.yaml")).collect();
        assert_eq!(rules(&own), tested, "{file}");
        for rule in rules(&rendered).iter().flat_map(|rules| rules.lines()).collect::<Vec<_>>().windows(2) {
            let is_rule = rule[1].starts_with("- apiGroups:");
            // A resource's rules may share the comment above the first.
            assert!(!is_rule || rule[0].starts_with("# ") || rule[0].starts_with("  verbs: "), "{rule:?}");
        }
    }
    let namespaced = documents(&render(&case("namespace")));
    for document in &namespaced {
        let kind = document["kind"].as_str().unwrap();
        assert!(!kind.starts_with("Cluster") && !kind.starts_with("Custom"), "{kind} is not of the namespace");
        assert_eq!(document["metadata"]["namespace"], NAMESPACE, "{kind}");
    }
    assert!(namespaced.len() >= 6, "{}", namespaced.len());
}

/// What the operator's container is started with, by flag; a flag without a value has none.
fn flags(values: &Value, further: &[&str]) -> BTreeMap<String, String> {
    let rendered = template(values, further);
    let container = of_kind(&rendered.stdout, "Deployment")["spec"]["template"]["spec"]["containers"][0].clone();
    let given: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
    let pair = |argument: &String| {
        let (flag, value) = argument.split_once('=').unwrap_or((argument, ""));
        (flag.to_owned(), value.to_owned())
    };
    given.iter().map(pair).collect()
}

/// Runs the operator where there is no API server: it tells whether it understands its command line.
fn operator(arguments: &[String]) -> Finished {
    let program = server_binary().unwrap().with_file_name("rerank-operator");
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("KUBECONFIG", "/nonexistent").output().unwrap().into()
}

#[test]
fn the_operator_understands_its_arguments_and_every_flag_has_a_value() {
    let mut used = BTreeSet::new();
    for (name, values) in cases() {
        let given = flags(&values, &[]);
        let line: Vec<String> = given
            .iter()
            .map(|(flag, value)| if value.is_empty() { flag.clone() } else { format!("{flag}={value}") })
            .collect();
        let ended = operator(&line);
        assert!(ended.stderr.contains("failed to find the API server"), "{name}: {line:?} {ended:?}");
        used.extend(given.into_keys());
    }
    // Its name among several is the pod's, by a variable.
    let pod = of_kind(&render(&json!({})), "Deployment")["spec"]["template"]["spec"].clone();
    let variable = &pod["containers"][0]["env"][0];
    assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    let help = operator(&["--help".to_owned()]).stdout;
    let mut flags_of_help = 0;
    for (at, _) in help.match_indices("      --") {
        let text = &help[at + 6..];
        let flag = text.split_whitespace().next().unwrap();
        let until = text[2..].find("      --").unwrap_or(text.len() - 2) + 2;
        let is_variable = text[..until].contains(&format!("[env: {}=", variable["name"].as_str().unwrap()));
        flags_of_help += 1;
        assert!(used.contains(flag) || is_variable, "no value sets {flag}");
    }
    assert_eq!(flags_of_help, used.len() + 1, "{help}");
}

#[test]
fn flags_have_the_values_that_were_given() {
    let version = env!("CARGO_PKG_VERSION");
    let expect = |given: &BTreeMap<String, String>, wanted: &[(&str, &str)]| {
        for (flag, value) in wanted {
            assert_eq!(given.get(*flag).map(String::as_str), Some(*value), "{flag}");
        }
    };
    let defaults = flags(&json!({}), &[]);
    let (cpu, cuda) = (format!("rerank-server:{version}-cpu"), format!("rerank-server:{version}-cuda"));
    expect(&defaults, &[("--cpu-image", &cpu), ("--gpu-image", &cuda), ("--lease-namespace", NAMESPACE)]);
    expect(&defaults, &[("--listen", "0.0.0.0:8080"), ("--lease-name", "rerank-operator")]);
    for left_out in ["--watch-namespace", "--elastic-nodes", "--log-text"] {
        assert!(!defaults.contains_key(left_out), "{left_out}");
    }
    let set = flags(&case("flags"), &[]);
    expect(&defaults, &[("--resync-seconds", "300")]);
    expect(
        &set,
        &[("--resync-seconds", "60"), ("--elastic-nodes", ""), ("--log-text", ""), ("--log-filter", "debug,kube=info")],
    );
    expect(&set, &[("--listen", "[::]:9443")]);
    expect(&flags(&case("renamed"), &[]), &[("--lease-name", "reranking-leader")]);
    let elsewhere = flags(&case("namespace"), &["--namespace", "search"]);
    expect(&elsewhere, &[("--watch-namespace", "search"), ("--lease-namespace", "search")]);
}

#[test]
fn images_are_named_by_digest_where_there_is_one_and_else_by_tag() {
    let image = |name: &str| {
        let pod = of_kind(&render(&case(name)), "Deployment")["spec"]["template"]["spec"].clone();
        (pod["containers"][0]["image"].as_str().unwrap().to_owned(), flags(&case(name), &[]))
    };
    let (operator, given) = image("mirrored");
    assert_eq!(operator, format!("registry.example:5000/mirror/team/operator@sha256:{:064}", 1));
    assert_eq!(given["--cpu-image"], "registry.example:5000/mirror/team/server:1.2.3");
    assert_eq!(given["--gpu-image"], format!("registry.example:5000/mirror/team/server-cuda@sha256:{:064}", 2));
    let (operator, given) = image("tagged");
    assert_eq!(operator, "rerank-operator:main");
    assert_eq!(given["--cpu-image"], format!("rerank-server@sha256:{:064}", 3));
    assert_eq!(given["--gpu-image"], "rerank-server:13");
}

/// The operator reads models' states from the servers; its policy must let it reach the pods that it makes.
#[test]
fn the_network_policy_reaches_the_control_port_of_the_pods_that_the_operator_makes() {
    let text = fs::read_to_string(root().join("examples/minimal.yaml")).unwrap();
    let mut object: RerankDeployment = serde_yaml::from_str(&text).unwrap();
    object.metadata.uid = Some("some".to_owned());
    let plan = validate(&object.spec).unwrap();
    let deployment = build(&object, &plan, Replacement::Surge, &Settings::default()).deployment;
    let server = serde_json::to_value(deployment).unwrap()["spec"]["template"].clone();
    let ports = server["spec"]["containers"][0]["ports"].as_array().unwrap();
    let control = ports.iter().find(|port| port["name"] == "control").unwrap();
    for (name, everywhere) in [("default", true), ("namespace", false)] {
        let policy = of_kind(&render(&case(name)), "NetworkPolicy");
        let rule = policy["spec"]["egress"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(rule["ports"][0]["port"], control["containerPort"]);
        for (label, value) in rule["to"][0]["podSelector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(server["metadata"]["labels"][label], *value, "{label}");
        }
        assert_eq!(rule["to"][0]["namespaceSelector"].is_object(), everywhere);
    }
}

/// What chooses the operator's pods chooses nothing else of the chart, and is what the pods have.
#[test]
fn selectors_choose_the_operators_pods_and_not_that_of_the_test() {
    for (name, values) in cases() {
        let rendered = documents(&render(&values));
        let find = |kind: &str| rendered.iter().find(|one| one["kind"] == kind).cloned().unwrap_or_default();
        let (deployment, test) = (find("Deployment"), find("Pod"));
        let has = |labels: &Value, wanted: &Value| {
            wanted.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
        };
        for selector in [
            &deployment["spec"]["selector"],
            &find("NetworkPolicy")["spec"]["podSelector"],
            &find("PodDisruptionBudget")["spec"]["selector"],
            &find("PodMonitor")["spec"]["selector"],
        ] {
            let wanted = &selector["matchLabels"];
            if wanted.is_object() {
                assert!(has(&deployment["spec"]["template"]["metadata"]["labels"], wanted), "{name}: {wanted}");
                assert!(!has(&test["metadata"]["labels"], wanted), "{name}: {wanted}");
            }
        }
    }
}

#[test]
fn versions_are_those_of_the_workspace() {
    let about: Value = serde_yaml::from_str(&read("Chart.yaml")).unwrap();
    assert_eq!((&about["version"], &about["appVersion"]), (&json!(env!("CARGO_PKG_VERSION")), &about["version"]));
}

#[test]
fn the_table_of_values_is_made_from_their_comments() {
    const BEGIN: &str = "<!-- values: made by the tests -->\n";
    const END: &str = "<!-- end of values -->\n";
    let text = read("README.md");
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let rows = leaves().into_iter().map(|leaf| {
        let name = leaf.path.join(".");
        format!("| `{name}` | `{}` | {} |\n", leaf.default, leaf.comment.replace('|', "\\|"))
    });
    let table: String =
        std::iter::once("| value | default | meaning |\n|---|---|---|\n".to_owned()).chain(rows).collect();
    assert_committed("README.md", &format!("{before}{BEGIN}{table}{END}{after}"));
}
