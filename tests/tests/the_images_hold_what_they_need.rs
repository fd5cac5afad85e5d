//! What goes into an image is enough for its program to start where there is nothing else. Without a builder: the folder that
//! is packed is looked at, and the program is started by the loader in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rerank_tests::http::root;

const PROGRAMS: [&str; 2] = ["rerank-operator", "rerank-server"];

fn stage(context: &Path, options: &[&str], program: &Path) -> Output {
    Command::new(root().join("images/stage.sh")).args(options).arg(context).arg(program).output().unwrap()
}

fn assert_succeeded(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// The only loader of a folder, and the folder of its libraries.
fn loader(system: &Path) -> (PathBuf, PathBuf) {
    let mut found = (None, None);
    let mut folders = vec![system.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("ld-linux") {
                found.0 = Some(path);
            } else if name == "libc.so.6" {
                found.1 = Some(folder.clone());
            }
        }
    }
    (found.0.unwrap(), found.1.unwrap())
}

#[test]
fn a_program_finds_all_its_libraries_in_the_image() {
    for program in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context");
        assert_succeeded(&stage(&context, &[], &root().join("target/debug").join(program)));
        let system = context.join("system");
        let (loader, libraries) = loader(&system);
        let binary = context.join("program/usr/bin").join(program);
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&loader);
            command.args(["--inhibit-cache", "--library-path"]).arg(&libraries).args(arguments);
            command.output().unwrap()
        };

        // The loader looks at this machine's folders too where the image lacks a library: its list tells.
        let listed = run(&["--list", binary.to_str().unwrap()]);
        assert_succeeded(&listed);
        let listed = String::from_utf8(listed.stdout).unwrap();
        let paths: Vec<&str> = listed.split_whitespace().filter(|word| word.starts_with('/')).collect();
        assert!(paths.len() > 2, "{listed}");
        for path in paths {
            // The loader itself is listed by the name that the program has for it.
            assert!(Path::new(path).starts_with(&system) || system.join(&path[1..]) == loader, "{program}: {path}");
        }

        let version = run(&[binary.to_str().unwrap(), "--version"]);
        assert_succeeded(&version);
        assert!(String::from_utf8(version.stdout).unwrap().starts_with(program));
    }
}

#[test]
fn roots_of_trust_and_a_user_that_is_not_root_are_in_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().join("context");
    assert_succeeded(&stage(&context, &[], &root().join("target/debug/rerank-operator")));
    let system = context.join("system");
    let roots = fs::read_to_string(system.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(roots.contains("BEGIN CERTIFICATE"));
    assert_eq!(fs::metadata(system.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    let user = "65532";
    assert!(fs::read_to_string(system.join("etc/passwd")).unwrap().contains(user));
    for name in ["operator", "server", "server-cuda"] {
        let containerfile = fs::read_to_string(root().join(format!("images/{name}.Containerfile"))).unwrap();
        assert!(containerfile.contains(&format!("\nUSER {user}:{user}\n")), "{name}");
    }
}

#[test]
fn a_library_that_nobody_brings_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("driver.c"), "void start(void) {}\n").unwrap();
    fs::write(path("program.c"), "void start(void);\nint main(void) { start(); }\n").unwrap();
    let compile = |arguments: &[&str]| {
        assert_succeeded(&Command::new("cc").current_dir(folder.path()).args(arguments).output().unwrap());
    };
    compile(&["-shared", "-o", "libdriver.so", "driver.c"]);
    compile(&["-o", "program", "program.c", "-L.", "-ldriver"]);

    let refused = stage(&path("context"), &[], &path("program"));
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("libdriver.so"), "{refused:?}");
    assert_succeeded(&stage(&path("context"), &["--provided", "libdriver.so"], &path("program")));
}

#[test]
fn on_a_base_only_the_program_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().join("context");
    let program = root().join("target/debug/rerank-operator");
    assert_succeeded(&stage(&context, &["--programs-only"], &program));
    assert!(context.join("program/usr/bin/rerank-operator").is_file());
    assert_eq!(fs::read_dir(context.join("system")).unwrap().count(), 0);
}
