//! The measurement behind docs/decisions/001-store-engine.md: groups of records, one fsync each.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const RECORD_BYTES: usize = 2500;
const TABLE: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("log");

fn engines(c: &mut Criterion) {
    let record: Vec<u8> =
        (0..RECORD_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut group = c.benchmark_group("commit");
    for writes in [1u64, 8, 64] {
        group.throughput(Throughput::Elements(writes));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let db =
            redb::Database::builder().set_cache_size(8 << 20).create(dir.path().join("db")).expect("redb");
        let mut next = 0u64;
        group.bench_function(BenchmarkId::new("redb", writes), |b| {
            b.iter(|| {
                let tx = db.begin_write().expect("begin");
                {
                    let mut table = tx.open_table(TABLE).expect("table");
                    for _ in 0..writes {
                        table.insert(next, record.as_slice()).expect("insert");
                        next += 1;
                    }
                }
                tx.commit().expect("commit");
            });
        });
        let dir = tempfile::tempdir().expect("a temporary directory");
        let db =
            fjall::Database::builder(dir.path()).cache_size(8 << 20).worker_threads(1).open().expect("fjall");
        let log = db.keyspace("log", fjall::KeyspaceCreateOptions::default).expect("keyspace");
        group.bench_function(BenchmarkId::new("fjall", writes), |b| {
            b.iter(|| {
                let mut batch = db.batch().durability(Some(fjall::PersistMode::SyncData));
                for _ in 0..writes {
                    batch.insert(&log, next.to_be_bytes(), record.as_slice());
                    next += 1;
                }
                batch.commit().expect("commit");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, engines);
criterion_main!(benches);
