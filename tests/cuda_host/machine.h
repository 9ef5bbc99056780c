// Executes kernels on the host: blocks one after another, the threads of a block as fibers.
//
// A thread runs until it needs others (a barrier or a warp function); then any other thread that
// can go on is chosen at random. Code that lacks a barrier gives results that depend on the seed,
// code whose threads do not meet where they should fails with a message. Reproducible: the order
// depends on the seed, on the kernel's name and on how often the kernel was launched since the seed
// was set.
#pragma once

#include <cstdint>
#include <string>

namespace jgd::cuda::host {

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxSharedBytes = 48 << 10;

// What threads wait for together.
enum class Meeting : int {
  kNone,
  kSyncBlock,
  kSyncWarp,
  kBallot,
  kShuffle,
  kShuffleXor,
  kShuffleUp
};

// The thread that runs.
struct Position {
  int thread;
  int n_threads;
  int64_t block;
  int64_t n_blocks;
};
const Position& position();
unsigned char* shared_bytes();

// `line` is where the kernel calls: all threads of a meeting have to come from the same one.
void sync_block(int line);
// The same; returns whether any thread of the block came with true.
bool sync_block_any(bool predicate, int line);
// Waits for the other lanes of the warp; returns the value that each of them brought.
const uint64_t* meet_warp(Meeting what, uint64_t value, int line);

// Runs body(data) for every thread of every block; returns what went wrong, or nothing.
std::string run(const char* name, void (*body)(const void*), const void* data, int64_t n_blocks,
                int n_threads, int64_t n_shared_bytes);

// A random number of the host's own, for what the real thing leaves open.
uint64_t random_bits(const char* name);

}  // namespace jgd::cuda::host
