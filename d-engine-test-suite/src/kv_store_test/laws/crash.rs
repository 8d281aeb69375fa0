//! Laws of crashes, damage and full disks.

use super::KvStoreBuilder;
use crate::crash::crash_laws;
use crate::kv_store_test::subject::Kv;

crash_laws! { KvStoreBuilder:
    /// A process that is killed has lost nothing that it flushed, and left no half of a batch.
    kill_nine_loses_nothing_flushed = kill of Kv,
        "one batch holds data and the applied marker; the log is purged up to what was flushed";
    /// A copy of the directory of a stopped process is what a kill at that moment would have left.
    copies_of_a_stopped_process_hold_a_prefix = copies of Kv,
        "a crash may come between any two system calls, also in the middle of replace_all()";
    /// Every state that a crash may leave on a simulated disk is the content after a prefix of the writes.
    crash_images_hold_a_prefix = images of Kv,
        "the order in which a device keeps unsynced writes is nobody's promise";
    /// After a loss of power everything is there that was flushed, and whole batches only.
    power_cut_loses_nothing_flushed = power_cut of Kv,
        "the log is purged up to what was flushed, or replaced, durably; nothing could rebuild it";
    /// A write that was not flushed and is on the disk in part is cut off, and what follows survives the next restart.
    a_torn_tail_is_cut = torn of Kv,
        "a crash leaves any part of an unflushed write; a node that does not start then is lost without need";
    /// Damaged files are an error or no damage at all.
    damage_is_corrupt_and_never_an_empty_store = damage of Kv,
        "a replica whose data changes silently answers what no other replica answers";
    /// A write or sync that failed is an error of the call that needed it.
    a_failed_write_or_sync_is_an_error = failed_calls of Kv,
        "the log is purged up to what flush() says is durable";
    /// A full disk is refused with `NoSpace`; the same call succeeds once there is space, and reads go on.
    a_full_disk_is_clean_and_retryable = full_disk of Kv,
        "a full disk is ordinary; a replica goes on by itself once there is space";
}
