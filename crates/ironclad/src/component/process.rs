//! What every process says of itself in its metrics, under the names that Prometheus' client libraries use.

use nix::unistd::{SysconfVar, sysconf};
use std::fmt::Write;

/// What /proc tells of this process (proc_pid_stat(5)).
#[derive(Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: f64,
    threads: i64,
    /// Since the machine's.
    started_after_seconds: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

/// Reads /proc/self/stat.
fn parse(stat: &str, ticks_per_second: f64, page_bytes: i64) -> Option<Process> {
    // The command may contain spaces; what follows it does not.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<i64>().ok();
    Some(Process {
        cpu_seconds: (number(11)? + number(12)?) as f64 / ticks_per_second,
        threads: number(17)?,
        started_after_seconds: number(19)? as f64 / ticks_per_second,
        virtual_bytes: number(20)?,
        resident_bytes: number(21)? * page_bytes,
    })
}

/// When the machine was started, in seconds since 1970.
fn booted_at() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

fn read() -> Option<Process> {
    let system = |name| sysconf(name).ok().flatten();
    let ticks = system(SysconfVar::CLK_TCK)? as f64;
    parse(&std::fs::read_to_string("/proc/self/stat").ok()?, ticks, system(SysconfVar::PAGE_SIZE)?)
}

/// Appends the process to metrics in OpenMetrics text form.
pub fn append(metrics: &mut String) {
    const END: &str = "# EOF\n";
    let Some(process) = read() else { return };
    if let Some(rest) = metrics.strip_suffix(END) {
        metrics.truncate(rest.len());
    }
    let mut say = |name: &str, kind: &str, help: &str, suffix: &str, value: f64| {
        // writing into a String cannot fail
        let _ = writeln!(metrics, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{suffix} {value}");
    };
    let help = "Total user and system CPU time spent in seconds.";
    say("process_cpu_seconds", "counter", help, "_total", process.cpu_seconds);
    let help = "Start time of the process since unix epoch in seconds.";
    if let Some(booted) = booted_at() {
        say("process_start_time_seconds", "gauge", help, "", booted + process.started_after_seconds);
    }
    let help = "Resident memory size in bytes.";
    say("process_resident_memory_bytes", "gauge", help, "", process.resident_bytes as f64);
    let help = "Virtual memory size in bytes.";
    say("process_virtual_memory_bytes", "gauge", help, "", process.virtual_bytes as f64);
    say("process_threads", "gauge", "Number of threads.", "", process.threads as f64);
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        say("process_open_fds", "gauge", "Number of open file descriptors.", "", open.count() as f64);
    }
    if let Ok((most, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        say("process_max_fds", "gauge", "Maximum number of open file descriptors.", "", most as f64);
    }
    metrics.push_str(END);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_of_itself() {
        let stat =
            "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1200 8192 3 18446744073709551615";
        let expect = Process {
            cpu_seconds: 3.0,
            threads: 9,
            started_after_seconds: 12.0,
            virtual_bytes: 8192,
            resident_bytes: 12288,
        };
        assert_eq!(parse(stat, 100.0, 4096), Some(expect));
        let mut text = "# TYPE up gauge\nup 1\n# EOF\n".to_owned();
        append(&mut text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.iter().filter(|l| **l == "# EOF").count(), 1);
        assert_eq!(lines.last(), Some(&"# EOF"));
        let value = |name: &str| {
            let line = lines.iter().find_map(|l| l.strip_prefix(name)).expect("it is told");
            line.trim().parse::<f64>().expect("a number")
        };
        assert!(value("process_start_time_seconds ") > 1.6e9);
        assert!(value("process_resident_memory_bytes ") > 0.0);
        assert!(value("process_open_fds ") <= value("process_max_fds "));
    }
}
