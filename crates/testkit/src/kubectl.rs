//! The real kubectl.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What a command printed.
#[derive(Clone, Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "kubectl failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(!self.success, "kubectl succeeded: {}", self.stdout);
        self.stderr
    }
}

impl Kubectl {
    /// The kubectl named by KUBECTL, or the one on the path.
    pub fn new(kubeconfig: &Path) -> Self {
        Self::at(std::env::var_os("KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from), kubeconfig)
    }

    pub fn at(program: PathBuf, kubeconfig: &Path) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned() }
    }

    /// Splits at blanks, but for what stands between single quotes.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        let mut quoted = false;
        let mut word = String::new();
        let mut words = Vec::new();
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
                c => word.push(c),
            }
        }
        words.extend((!word.is_empty()).then_some(word));
        command.args(words).env("KUBECONFIG", &self.kubeconfig).env("HOME", "/nonexistent");
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.feed(line, "")
    }

    /// Runs a command with this on its standard input.
    pub fn feed(&self, line: &str, input: &str) -> Output {
        let mut child = self.start(line);
        let mut stdin = child.stdin.take().expect("a piped stdin");
        // a command that does not read its input closes it: that is its affair
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl's end");
        Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A command that goes on in the background, with piped input and output.
    pub fn start(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()))
    }

    /// Applies manifests.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.feed("apply -f -", yaml).ok()
    }
}
