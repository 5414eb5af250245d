// Recommends from a .peel file in Rust, through the C library:
//
//     rustc -L native=FOLDER -l peel recommend.rs && ./recommend FILE BUDGET N ITEM...
//
// opens FILE under BUDGET bytes (0: all of it), learns the user's vector from the ITEMs it knows, by
// their item ids where the file has some and else by row, and prints the N best others.
use std::ffi::{c_char, c_int, CStr, CString};
use std::process::ExitCode;

#[repr(C)]
struct PeelError {
    status: c_int,
    minimum_bytes: u64,
    message: [c_char; 256],
}

#[repr(C)]
struct PeelRecommender {
    _private: [u8; 0],
}

extern "C" {
    fn peel_open_file(
        path: *const c_char,
        budget_bytes: u64,
        recommender: *mut *mut PeelRecommender,
        error: *mut PeelError,
    ) -> c_int;
    fn peel_close(recommender: *mut PeelRecommender);
    fn peel_recommend(
        recommender: *const PeelRecommender,
        history: *const i64,
        num_history: usize,
        n: usize,
        ids: *mut i64,
        scores: *mut f32,
        error: *mut PeelError,
    ) -> c_int;
    fn peel_get_item_id_type(
        recommender: *const PeelRecommender,
        id_type: *mut c_int,
        error: *mut PeelError,
    ) -> c_int;
    fn peel_find_rows_by_text(
        recommender: *const PeelRecommender,
        item_ids: *const *const c_char,
        count: usize,
        ids: *mut i64,
        error: *mut PeelError,
    ) -> c_int;
    fn peel_get_item_text(
        recommender: *const PeelRecommender,
        id: i64,
        text: *mut c_char,
        capacity: usize,
        length: *mut usize,
        error: *mut PeelError,
    ) -> c_int;
}

type Answer<T> = Result<T, String>;

/// Runs a call that may say what is wrong.
fn check(call: impl FnOnce(*mut PeelError) -> c_int) -> Answer<()> {
    let mut error = PeelError { status: 0, minimum_bytes: 0, message: [0; 256] };
    if call(&mut error) == 0 {
        return Ok(());
    }
    // What is written ends with a zero.
    Err(unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_string_lossy().into_owned())
}

/// A file that is open, until it is dropped.
struct Recommender(*mut PeelRecommender);

impl Drop for Recommender {
    fn drop(&mut self) {
        unsafe { peel_close(self.0) }
    }
}

impl Recommender {
    fn open(path: &str, budget_bytes: u64) -> Answer<Self> {
        let path = CString::new(path).map_err(|error| error.to_string())?;
        let mut opened = std::ptr::null_mut();
        check(|error| unsafe { peel_open_file(path.as_ptr(), budget_bytes, &mut opened, error) })?;
        Ok(Self(opened))
    }

    fn has_item_ids(&self) -> Answer<bool> {
        let mut id_type = 0;
        check(|error| unsafe { peel_get_item_id_type(self.0, &mut id_type, error) })?;
        Ok(id_type != 0)
    }

    fn find_rows(&self, names: &[String]) -> Answer<Vec<i64>> {
        let texts: Vec<CString> =
            names.iter().map(|name| CString::new(name.as_str()).unwrap()).collect();
        let addresses: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let mut rows = vec![-1; names.len()];
        check(|error| unsafe {
            peel_find_rows_by_text(self.0, addresses.as_ptr(), rows.len(), rows.as_mut_ptr(), error)
        })?;
        match rows.iter().position(|row| *row < 0) {
            Some(unknown) => Err(format!("item '{}' is not known", names[unknown])),
            None => Ok(rows),
        }
    }

    fn item_text(&self, row: i64) -> Answer<String> {
        let mut length = 0;
        check(|error| unsafe {
            peel_get_item_text(self.0, row, std::ptr::null_mut(), 0, &mut length, error)
        })?;
        let mut text = vec![0u8; length + 1];
        check(|error| unsafe {
            let into = text.as_mut_ptr().cast();
            peel_get_item_text(self.0, row, into, text.len(), &mut length, error)
        })?;
        text.truncate(length);
        String::from_utf8(text).map_err(|error| error.to_string())
    }

    fn recommend(&self, history: &[i64], n: usize) -> Answer<Vec<(i64, f32)>> {
        let mut ids = vec![0; n];
        let mut scores = vec![0.0; n];
        check(|error| unsafe {
            let (into, worth) = (ids.as_mut_ptr(), scores.as_mut_ptr());
            peel_recommend(self.0, history.as_ptr(), history.len(), n, into, worth, error)
        })?;
        Ok(ids.into_iter().zip(scores).filter(|(id, _)| *id >= 0).collect())
    }
}

fn run(arguments: &[String]) -> Answer<()> {
    let number = |text: &String| text.parse::<u64>().map_err(|_| format!("'{text}' is no number"));
    let budget = number(&arguments[1])?;
    let n = number(&arguments[2])? as usize;
    let recommender = Recommender::open(&arguments[0], if budget == 0 { u64::MAX } else { budget })?;
    let has_item_ids = recommender.has_item_ids()?;
    let history = if has_item_ids {
        recommender.find_rows(&arguments[3..])?
    } else {
        let rows: Answer<Vec<u64>> = arguments[3..].iter().map(number).collect();
        rows?.into_iter().map(|row| row as i64).collect()
    };
    for (row, score) in recommender.recommend(&history, n)? {
        let name = if has_item_ids { recommender.item_text(row)? } else { row.to_string() };
        println!("{name}\t{score:.4}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.len() < 3 {
        eprintln!("usage: recommend FILE BUDGET N ITEM...");
        return ExitCode::from(2);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("recommend: {message}");
            ExitCode::FAILURE
        }
    }
}
