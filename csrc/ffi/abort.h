// Ends the process with a sentence where it would be aborted: LLVM, which compiles for XLA, aborts
// when it finds no memory. For commands only; a library must leave signals alone.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace jgd {

// The handler reads these: it must neither allocate nor lock.
inline char abort_message[512];
inline size_t abort_message_size = 0;
inline int abort_exit_code = 1;
inline struct sigaction abort_before;

inline void end_with_message(int) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, abort_message, abort_message_size);
  _exit(abort_exit_code);
}

// From now on an abort writes the message to stderr and exits with the code.
inline void exit_on_abort(const std::string& message, int code) {
  abort_message_size = std::min(message.size(), sizeof(abort_message));
  std::memcpy(abort_message, message.data(), abort_message_size);
  abort_exit_code = code;
  struct sigaction action{};
  action.sa_handler = end_with_message;
  sigaction(SIGABRT, &action, &abort_before);
}

// Undoes exit_on_abort.
inline void abort_as_before() { sigaction(SIGABRT, &abort_before, nullptr); }

}  // namespace jgd
