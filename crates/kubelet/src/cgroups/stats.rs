//! What a cgroup uses, from the kernel's files.

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Time used since the cgroup was made, in nanoseconds of one core.
    pub usage_nanos: u64,
    pub user_nanos: u64,
    pub system_nanos: u64,
}

/// Memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage_bytes: u64,
    /// Usage without the page cache that can be dropped at once.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// The bound, if there is one.
    pub limit_bytes: Option<u64>,
    pub swap_bytes: u64,
}

/// What is known of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: Option<CpuStats>,
    pub memory: Option<MemoryStats>,
    pub processes: Option<u64>,
}

/// A v1 limit at or above this means none: the kernel's largest page count.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Of cgroup v1; `read` takes a controller and a file.
pub(super) fn v1(read: impl Fn(&str, &str) -> Option<String>) -> Stats {
    let number = |controller: &str, file: &str| read(controller, file)?.trim().parse::<u64>().ok();
    let cpu = number("cpuacct", "cpuacct.usage").map(|usage_nanos| CpuStats {
        usage_nanos,
        user_nanos: number("cpuacct", "cpuacct.usage_user").unwrap_or(0),
        system_nanos: number("cpuacct", "cpuacct.usage_sys").unwrap_or(0),
    });
    let memory = number("memory", "memory.usage_in_bytes").map(|usage_bytes| {
        let table = read("memory", "memory.stat").unwrap_or_default();
        let with_swap = number("memory", "memory.memsw.usage_in_bytes").unwrap_or(usage_bytes);
        MemoryStats {
            usage_bytes,
            working_set_bytes: usage_bytes.saturating_sub(field(&table, "total_inactive_file")),
            rss_bytes: field(&table, "total_rss"),
            page_faults: field(&table, "total_pgfault"),
            major_page_faults: field(&table, "total_pgmajfault"),
            limit_bytes: number("memory", "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT_BYTES),
            swap_bytes: with_swap.saturating_sub(usage_bytes),
        }
    });
    Stats { cpu, memory, processes: number("pids", "pids.current") }
}

/// Of cgroup v2.
pub(super) fn v2(read: impl Fn(&str, &str) -> Option<String>) -> Stats {
    let number = |controller: &str, file: &str| read(controller, file)?.trim().parse::<u64>().ok();
    let cpu = read("cpu", "cpu.stat").map(|table| CpuStats {
        usage_nanos: field(&table, "usage_usec").saturating_mul(1000),
        user_nanos: field(&table, "user_usec").saturating_mul(1000),
        system_nanos: field(&table, "system_usec").saturating_mul(1000),
    });
    let table = read("memory", "memory.stat").unwrap_or_default();
    // the root of the tree has no memory.current
    let usage = number("memory", "memory.current")
        .or_else(|| (!table.is_empty()).then(|| field(&table, "anon") + field(&table, "file")));
    let memory = usage.map(|usage_bytes| MemoryStats {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(field(&table, "inactive_file")),
        rss_bytes: field(&table, "anon"),
        page_faults: field(&table, "pgfault"),
        major_page_faults: field(&table, "pgmajfault"),
        limit_bytes: number("memory", "memory.max"),
        swap_bytes: number("memory", "memory.swap.current").unwrap_or(0),
    });
    Stats { cpu, memory, processes: number("pids", "pids.current") }
}

/// The number behind a name in a table of "name number" lines; 0 if it is not there.
fn field(table: &str, name: &str) -> u64 {
    let mut lines = table.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(n, _)| *n == name).and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<'a>(all: &'a [(&'a str, &'a str)]) -> impl Fn(&str, &str) -> Option<String> + 'a {
        |_, file| all.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn both_versions_give_the_same_figures() {
        let expect = MemoryStats {
            usage_bytes: 1000,
            working_set_bytes: 900,
            rss_bytes: 400,
            page_faults: 7,
            major_page_faults: 1,
            limit_bytes: Some(5000),
            swap_bytes: 0,
        };
        let one = v1(files(&[
            ("cpuacct.usage", "5000000\n"),
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "5000\n"),
            ("memory.stat", "total_rss 400\ntotal_inactive_file 100\ntotal_pgfault 7\ntotal_pgmajfault 1\n"),
            ("pids.current", "3\n"),
        ]));
        let two = v2(files(&[
            ("cpu.stat", "usage_usec 5000\nuser_usec 0\nsystem_usec 0\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "5000\n"),
            ("memory.stat", "anon 400\ninactive_file 100\npgfault 7\npgmajfault 1\n"),
            ("pids.current", "3\n"),
        ]));
        assert_eq!(one, two);
        assert_eq!((one.memory, one.processes), (Some(expect), Some(3)));
        assert_eq!(
            v1(files(&[("memory.usage_in_bytes", "1"), ("memory.limit_in_bytes", "9223372036854771712")]))
                .memory
                .unwrap()
                .limit_bytes,
            None
        );
    }
}
