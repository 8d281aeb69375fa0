//! How RocksDB is set up.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options, ReadOptions,
};

/// Bytes of writes in memory before they become a file.
pub(crate) const WRITE_BUFFER: usize = 32 << 20;

/// Blocks of files that are kept in memory, for the log: it is read at its end, which the node holds in memory anyway.
const LOG_CACHE: usize = 16 << 20;
/// The same for data.
const DATA_CACHE: usize = 256 << 20;

/// Files that are open at a time; the usual limit of a process is 1,024.
const OPEN_FILES_MAX: i32 = 256;

/// What both have in common.
fn common(may_make: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(may_make);
    options.set_paranoid_checks(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_compression_type(DBCompressionType::Lz4);
    // Its own diary would grow beside the store, and a disk that refuses to write it would go unnoticed.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// For the log's database as a whole, and for its column family of small records.
pub(crate) fn log(may_make: bool) -> Options {
    let mut options = common(may_make);
    options.create_missing_column_families(may_make);
    // What a crash may leave at the end was cut before: see `log_file`.
    options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    options.set_track_and_verify_wals_in_manifest(true);
    options
}

/// For the entries of the log.
pub(crate) fn entries() -> Options {
    let mut options = common(true);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(64 << 10);
    table.set_block_cache(&Cache::new_lru_cache(LOG_CACHE));
    options.set_block_based_table_factory(&table);
    // Each file moves down at once, for files of level 0 cannot be dropped whole. They do not overlap, so moving one
    // writes nothing but its new place.
    options.set_level_zero_file_num_compaction_trigger(1);
    options
}

/// For the state machine's data.
pub(crate) fn data(may_make: bool, cache: &Cache) -> Options {
    let mut options = common(may_make);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    options.set_block_based_table_factory(&table);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}

/// One cache for all generations of a store's data.
pub(crate) fn data_cache() -> Cache {
    Cache::new_lru_cache(DATA_CACHE)
}

/// Reads of a range of keys, which never look at what lies outside.
pub(crate) fn bounded(from: Option<Vec<u8>>, before: Option<Vec<u8>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    if let Some(from) = from {
        options.set_iterate_lower_bound(from);
    }
    if let Some(before) = before {
        options.set_iterate_upper_bound(before);
    }
    options
}
