//! One `#[test]` per law.
//!
//! Each suite has one list of its laws, from which both the tests and `run_all_tests` are made.

/// Makes one `#[test]` per law of a [`StorageEngine`](d_engine_core::StorageEngine), in a module `storage_engine_laws`
/// or the one named first. The builder expression is evaluated anew in each.
#[macro_export]
macro_rules! storage_engine_tests {
    ($builder:expr) => {
        $crate::storage_engine_tests!(storage_engine_laws, $builder);
    };
    ($module:ident, $builder:expr) => {
        $crate::__storage_engine_laws! { __tests { $module, storage_engine_test, StorageEngineTestSuite, $builder } }
    };
}

/// Makes one `#[test]` per law of a [`KvStore`](d_engine_core::KvStore), in a module `kv_store_laws` or the one named
/// first. The builder expression is evaluated anew in each.
#[macro_export]
macro_rules! kv_store_tests {
    ($builder:expr) => {
        $crate::kv_store_tests!(kv_store_laws, $builder);
    };
    ($module:ident, $builder:expr) => {
        $crate::__kv_store_laws! { __tests { $module, kv_store_test, KvStoreTestSuite, $builder } }
    };
}

/// Makes one `#[test]` per law of a [`StateMachine`](d_engine_core::StateMachine), in a module `state_machine_laws` or
/// the one named first. The builder expression is evaluated anew in each.
#[macro_export]
macro_rules! state_machine_tests {
    ($builder:expr) => {
        $crate::state_machine_tests!(state_machine_laws, $builder);
    };
    ($module:ident, $builder:expr) => {
        $crate::__state_machine_laws! { __tests { $module, state_machine_test, StateMachineTestSuite, $builder } }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    (
        { $module:ident, $area:ident, $suite:ident, $builder:expr }
        laws { $($law:ident)* }
        crash_laws { $($crash_law:ident)* }
        unchecked { $($later:ident: $why:literal)* }
    ) => {
        #[cfg(test)]
        mod $module {
            #[allow(unused_imports, reason = "the builder expression may name anything of the surrounding module")]
            use super::*;

            $(
                #[test]
                fn $law() {
                    $crate::run_as_test(stringify!($law), Box::pin(async {
                        let builder = $builder;
                        let result = $crate::$area::laws::$law(&builder).await;
                        $crate::$area::weigh(&builder, stringify!($law), result)
                    }));
                }
            )*
            // Runs as another process; as a test among others it does nothing.
            #[test]
            fn child() {
                $crate::$area::run_child(|| $builder);
            }

            $(
                #[test]
                fn $crash_law() {
                    $crate::run_as_test(stringify!($crash_law), Box::pin(async {
                        let builder = $builder;
                        let child = $crate::Child::of(module_path!());
                        let result = $crate::$area::laws::$crash_law(&builder, &child).await;
                        $crate::$area::weigh(&builder, stringify!($crash_law), result)
                    }));
                }
            )*
            $(
                #[test]
                #[ignore = $why]
                fn $later() {
                    $crate::run_as_test(stringify!($later), Box::pin(async {
                        Ok($crate::Outcome::unchecked($why))
                    }));
                }
            )*

            #[test]
            #[ignore = "timed; run with --ignored on a quiet machine"]
            fn performance() {
                $crate::run_as_test("performance", Box::pin(async {
                    if let Err(error) = $crate::$area::$suite::run_performance_tests($builder).await {
                        panic!("{error}");
                    }
                    Ok($crate::Outcome::Held)
                }));
            }
        }
    };
}

/// Runs every law of a list with one builder and adds the results to a report.
#[doc(hidden)]
#[macro_export]
macro_rules! __run_all {
    (
        { $laws:ident, $report:ident, $builder:ident, $child:ident }
        laws { $($law:ident)* }
        crash_laws { $($crash_law:ident)* }
        unchecked { $($later:ident: $why:literal)* }
    ) => {
        $( $report.add(stringify!($law), weigh(&$builder, stringify!($law), $laws::$law(&$builder).await)); )*
        $(
            let result = $laws::$crash_law(&$builder, $child).await;
            $report.add(stringify!($crash_law), weigh(&$builder, stringify!($crash_law), result));
        )*
        $( $report.add(stringify!($later), Ok($crate::Outcome::unchecked($why))); )*
    };
}
