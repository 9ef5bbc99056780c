// Executes kernels on the host: blocks one after another, the threads of a block as fibers.
//
// A thread runs until it needs others, at a barrier or a warp function; then a thread that can go
// on is chosen at random. Code that lacks a barrier gives results that depend on the seed, and code
// whose threads do not meet where they should fails with a message. Runs are reproducible: the
// order depends on the seed, on the kernel's name and on how often the kernel was launched since
// the seed was set.
#pragma once

#include <cstdint>
#include <string>

namespace jgd::cuda::host {

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxSharedBytes = 48 << 10;

// The operations in which threads wait for each other.
enum class Meeting : int {
  kNone,
  kSyncBlock,
  kSyncWarp,
  kBallot,
  kShuffle,
  kShuffleXor,
  kShuffleUp
};

// The position of the running thread.
struct Position {
  int thread;
  int n_threads;
  int64_t block;
  int64_t n_blocks;
};
const Position& position();
unsigned char* shared_bytes();

// `line` is the line of the call in the kernel: all threads of a meeting have to come from the same
// one.
void sync_block(int line);
// The same; returns whether the predicate was true in any thread of the block.
bool sync_block_any(bool predicate, int line);
// Waits for the other lanes of the warp; returns the value that each of them brought.
const uint64_t* meet_warp(Meeting what, uint64_t value, int line);

// Runs body(data) for every thread of every block; returns an error message, empty if all went
// well.
std::string run(const char* name, void (*body)(const void*), const void* data, int64_t n_blocks,
                int n_threads, int64_t n_shared_bytes);

// Returns a random number for choices that CUDA leaves open.
uint64_t random_bits(const char* name);

}  // namespace jgd::cuda::host
