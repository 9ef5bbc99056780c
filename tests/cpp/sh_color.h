// Calls the colour functions of math/sh.h with a degree that is known only at run time.
#pragma once

#include "math/sh.h"

namespace test {

template <typename T>
jgd::Vec3<T> ShColor(int degree, const T* sh, const jgd::Vec3<T>& offset,
                     jgd::ShConvention convention) {
  switch (degree) {
    case 0:
      return jgd::sh_color_of_degree<0>(sh, offset, convention);
    case 1:
      return jgd::sh_color_of_degree<1>(sh, offset, convention);
    case 2:
      return jgd::sh_color_of_degree<2>(sh, offset, convention);
    case 3:
      return jgd::sh_color_of_degree<3>(sh, offset, convention);
    default:
      return jgd::sh_color_of_degree<4>(sh, offset, convention);
  }
}

template <typename T>
void ShColorVjp(int degree, const T* sh, const jgd::Vec3<T>& offset, jgd::ShConvention convention,
                const jgd::Vec3<T>& v_color, T* v_sh, jgd::Vec3<T>& v_offset) {
  switch (degree) {
    case 0:
      return jgd::sh_color_of_degree_vjp<0>(sh, offset, convention, v_color, v_sh, v_offset);
    case 1:
      return jgd::sh_color_of_degree_vjp<1>(sh, offset, convention, v_color, v_sh, v_offset);
    case 2:
      return jgd::sh_color_of_degree_vjp<2>(sh, offset, convention, v_color, v_sh, v_offset);
    case 3:
      return jgd::sh_color_of_degree_vjp<3>(sh, offset, convention, v_color, v_sh, v_offset);
    default:
      return jgd::sh_color_of_degree_vjp<4>(sh, offset, convention, v_color, v_sh, v_offset);
  }
}

}  // namespace test
