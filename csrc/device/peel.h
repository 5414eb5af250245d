/* Personalized Elastic Embeddings on a device: the C interface.
 *
 * A .peel file holds every budget of one user group's item table. Open it under a budget of bytes,
 * and score, recommend, or learn a user's vector from what is held; resize it while it is in use.
 *
 * Functions that can fail return a status and never throw. Where one fails, `error`, if given, says
 * why; out parameters are then as they were. All functions may be called from any thread with the
 * same handle; each sees what was held at one moment. Only peel_close must be the last.
 *
 * `ids` are row numbers, 0 .. num_embeddings - 1. The ids that an app has for its items are item
 * ids: a file may carry them, and some functions turn one into the other.
 */
#ifndef PEEL_H_
#define PEEL_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if !defined(_WIN32)
#define PEEL_API __attribute__((visibility("default")))
#elif defined(PEEL_EXPORTS) /* as the library is built */
#define PEEL_API __declspec(dllexport)
#else
#define PEEL_API
#endif

/* Of this header; peel_version tells the library's. */
#define PEEL_VERSION "0.1.0"

typedef enum peel_status {
  PEEL_OK = 0,
  PEEL_ERROR_ARGUMENT = 1, /* an argument is out of range */
  PEEL_ERROR_FORMAT = 2,   /* not a .peel file, a newer version, or damaged */
  PEEL_ERROR_SOURCE = 3,   /* the file cannot be read */
  PEEL_ERROR_BUDGET = 4,   /* too few bytes: peel_error.minimum_bytes would do */
  PEEL_UNKNOWN_USER = 5,   /* no error, and never returned: see peel_recommend */
  PEEL_ERROR_MEMORY = 6,
  PEEL_ERROR_INTERNAL = 7,
  PEEL_ERROR_NOT_HELD = 8, /* the item asked about is not; a larger budget may hold it */
  PEEL_ERROR_NO_USER = 9   /* the bundle has no file of the user asked for */
} peel_status;

typedef struct peel_error {
  peel_status status;
  uint64_t minimum_bytes; /* with PEEL_ERROR_BUDGET */
  char message[256];
} peel_error;

typedef struct peel_recommender peel_recommender;

/* No limit: everything the file has. */
#define PEEL_NO_BUDGET UINT64_MAX

/* Where bytes come from. `read` fills `into` with the `count` bytes at `offset`, which lie below
 * `size`, and returns 0, or anything else when it cannot. It may be called from any thread, by one
 * at a time. `close`, if given, is called when the last byte has been read: after peel_close, or
 * when opening fails, but for arguments that are null. */
typedef struct peel_source {
  int (*read)(void* context, uint64_t offset, uint64_t count, void* into);
  void (*close)(void* context);
  void* context;
  uint64_t size;
} peel_source;

/* Of one user in a bundle. */
typedef struct peel_user_file {
  uint64_t offset;          /* in the bundle */
  uint64_t size;            /* in bytes */
  uint64_t blocks_end;      /* bytes from its first to the end of its last block */
  uint32_t header_checksum; /* its bytes 60 to 63 */
} peel_user_file;

typedef struct peel_info {
  int64_t num_embeddings; /* ids are 0 .. num_embeddings - 1 */
  int64_t num_rows;       /* rows of the item groups held */
  int64_t embedding_dim;  /* values of a user's vector */
  int64_t group;          /* the user group of the file */
  uint64_t num_blocks;    /* held */
  uint64_t all_blocks;    /* of the whole file */
  uint64_t nbytes;        /* held for the table, everything counted */
  uint64_t prefix_bytes;  /* of the file that are held */
  int32_t rotated;        /* 1: rows are rotated, as vectors of users must be; else 0 */
} peel_info;

typedef enum peel_item_id_type {
  PEEL_NO_ITEM_IDS = 0,
  PEEL_INTEGER_ITEM_IDS = 1,
  PEEL_TEXT_ITEM_IDS = 2
} peel_item_id_type;

/* The version of the library, as PEEL_VERSION of its header. */
PEEL_API const char* peel_version(void);
/* What a status means, in a few words; never null. */
PEEL_API const char* peel_status_text(peel_status status);
/* Threads that a call may use, the caller's included: 1 to 1024, for all handles of the process.
 * Without it as many as there are processors, or as PEEL_NUM_THREADS says in the environment. */
PEEL_API peel_status peel_set_num_threads(int32_t count, peel_error* error);

/* Opens a file; its bytes are read, not mapped, so that nobody can pull them away. */
PEEL_API peel_status peel_open_file(const char* path, uint64_t budget_bytes,
                                    peel_recommender** recommender, peel_error* error);
/* Opens bytes where they lie, aligned to 8: a mapped file, or one linked into the program. They
 * must stay as they are until the handle is closed. */
PEEL_API peel_status peel_open_memory(const void* data, uint64_t size, uint64_t budget_bytes,
                                      peel_recommender** recommender, peel_error* error);
PEEL_API peel_status peel_open_source(const peel_source* source, uint64_t budget_bytes,
                                      peel_recommender** recommender, peel_error* error);
/* Opens the file of one user in a bundle of many: `user` is its id in UTF-8, an integer in decimal.
 * Of a source, what is read is the bundle's first 8 KiB, a page of its index where it is not in
 * them, and in one piece what of the user's file the budget has room for. */
PEEL_API peel_status peel_open_user(const char* bundle_path, const char* user,
                                    uint64_t budget_bytes, peel_recommender** recommender,
                                    peel_error* error);
PEEL_API peel_status peel_open_user_in_source(const peel_source* bundle, const char* user,
                                              uint64_t budget_bytes, peel_recommender** recommender,
                                              peel_error* error);
/* Where that file lies, for a program that fetches bytes by itself: those from `offset` on are a
 * file to open. Where its bytes 44 to 47 are not blocks_end / 64, or its bytes 60 to 63 not
 * header_checksum, little endian, they are another file's. */
PEEL_API peel_status peel_find_user(const peel_source* bundle, const char* user,
                                    peel_user_file* found, peel_error* error);
/* Null is allowed. */
PEEL_API void peel_close(peel_recommender* recommender);

/* Holds what opening under this budget would hold, and reads only what is missing. */
PEEL_API peel_status peel_resize(peel_recommender* recommender, uint64_t budget_bytes,
                                 peel_error* error);
PEEL_API peel_status peel_get_info(const peel_recommender* recommender, peel_info* info,
                                   peel_error* error);

/* The n best of the rows held for a user's vector [embedding_dim], best first, equal scores in
 * ascending id, without the excluded ids; id -1 and score -infinity where fewer are held. */
PEEL_API peel_status peel_score(const peel_recommender* recommender, const float* user,
                                const int64_t* exclude, size_t num_exclude, size_t n, int64_t* ids,
                                float* scores, peel_error* error);
/* The same with a list that a server ranked for the user with the full table: distinct ids
 * [num_shipped] and their finite scores. Those that are not held, and not excluded, compete with
 * these scores, so that what the budget has no room for is not lost. */
PEEL_API peel_status peel_score_with_shipped(const peel_recommender* recommender, const float* user,
                                             const int64_t* exclude, size_t num_exclude,
                                             const int64_t* shipped, const float* shipped_scores,
                                             size_t num_shipped, size_t n, int64_t* ids,
                                             float* scores, peel_error* error);
/* Scores of given ids [count]; 0 for rows not held. */
PEEL_API peel_status peel_score_items(const peel_recommender* recommender, const float* user,
                                      const int64_t* ids, size_t count, float* scores,
                                      peel_error* error);
/* Folds a history in and scores, the history left out. Where none of it is held, the user is taken
 * for the average one of its group. Where the file has no centroids to tell that by, for the
 * average one of what is held; `error`, if given, then has the status PEEL_UNKNOWN_USER and says
 * so, and PEEL_OK is returned. After all other answers `error`, if given, has the status PEEL_OK.
 */
PEEL_API peel_status peel_recommend(const peel_recommender* recommender, const int64_t* history,
                                    size_t num_history, size_t n, int64_t* ids, float* scores,
                                    peel_error* error);

/* The n rows held whose directions are nearest to that of a held item's row: largest cosine first,
 * equal ones in ascending id, without the item; id -1 and score -infinity where fewer are held. A
 * row of zeros has cosine 0 with all. */
PEEL_API peel_status peel_similar(const peel_recommender* recommender, int64_t item, size_t n,
                                  int64_t* ids, float* scores, peel_error* error);

/* A user's vector [embedding_dim] from a history of ids; zeros where none of it is held. However
 * many rows are held, its softmax runs over no more than 2,048. */
PEEL_API peel_status peel_fold_in(const peel_recommender* recommender, const int64_t* history,
                                  size_t num_history, float* user, size_t* num_held,
                                  peel_error* error);
/* Brings a vector that was made of known_count items up to date with new ones. */
PEEL_API peel_status peel_continue(const peel_recommender* recommender, size_t known_count,
                                   const int64_t* items, size_t num_items, float* user,
                                   size_t* num_held, peel_error* error);
/* The vector [embedding_dim] that peel_recommend takes where nothing of a history is held: of the
 * average user of the file's group, or, where the file has no centroids to tell that by, of what is
 * held. `known`, if given, is then 0, else 1. */
PEEL_API peel_status peel_average_user(const peel_recommender* recommender, float* user, int* known,
                                       peel_error* error);
/* A vector [embedding_dim] of the model's space in that of the rows; as it is where the rows are
 * not rotated, PEEL_ERROR_FORMAT where they are and the file does not carry the rotation. */
PEEL_API peel_status peel_rotate(const peel_recommender* recommender, const float* vector,
                                 float* rotated, peel_error* error);
/* The user group whose file suits a user's vector best. */
PEEL_API peel_status peel_choose_group(const peel_recommender* recommender, const float* user,
                                       int64_t* group, peel_error* error);

/* What item ids the file carries. They are read where they are when they are asked for, and not
 * held; the first of the four functions below to be called looks at all their bytes once. */
PEEL_API peel_status peel_get_item_id_type(const peel_recommender* recommender,
                                           peel_item_id_type* type, peel_error* error);
/* The rows [count] of integer item ids; -1 for one that the file does not have. */
PEEL_API peel_status peel_find_rows(const peel_recommender* recommender, const int64_t* item_ids,
                                    size_t count, int64_t* ids, peel_error* error);
/* The rows [count] of item ids in UTF-8, each ended by a zero; integers are written in decimal. */
PEEL_API peel_status peel_find_rows_by_text(const peel_recommender* recommender,
                                            const char* const* item_ids, size_t count, int64_t* ids,
                                            peel_error* error);
/* The integer item ids [count] of rows. */
PEEL_API peel_status peel_get_item_ids(const peel_recommender* recommender, const int64_t* ids,
                                       size_t count, int64_t* item_ids, peel_error* error);
/* The item id of a row as text, ended by a zero; integers in decimal. `length` becomes its bytes
 * without the zero. Where `capacity` bytes are not enough for both, `text` becomes empty: call with
 * a capacity of 0 to learn the length. */
PEEL_API peel_status peel_get_item_text(const peel_recommender* recommender, int64_t id, char* text,
                                        size_t capacity, size_t* length, peel_error* error);

#ifdef __cplusplus
}
#endif

#endif /* PEEL_H_ */
