# What `npm install` builds: the addon with its CPU back end. It reads the same list of sources as CMakeLists.txt.
{
  'variables': {
    'version': '<!(node -p "require(\'./package.json\').version")',
    'kernel_sources': [
      '<!@(node -p "require(\'./native/sources.json\').cpu_kernels.join(\' \')")'
    ],
  },
  'target_defaults': {
    'include_dirs': ['native/cpp'],
    'cflags!': ['-fno-exceptions', '-fno-omit-frame-pointer'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20', '-fno-omit-frame-pointer'],
    'cflags_cc': [
      '-O3', '-std=c++17', '-fno-math-errno', '-fno-trapping-math', '-fvisibility=hidden', '-Wall', '-Wextra'
    ],
    'xcode_settings': {
      'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
      'GCC_ENABLE_CPP_RTTI': 'YES',
      'GCC_OPTIMIZATION_LEVEL': '3',
      'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
      'CLANG_CXX_LIBRARY': 'libc++',
      'MACOSX_DEPLOYMENT_TARGET': '11.0',
      'OTHER_CFLAGS': ['-fno-math-errno', '-fno-trapping-math', '-Wall', '-Wextra'],
    },
  },
  'targets': [
    {
      'target_name': 'allmrec',
      'sources': ['<!@(node -p "(s => [...s.binding, ...s.backbones])(require(\'./native/sources.json\')).join(\' \')")'],
      'include_dirs': ['<!(node -p "require(\'node-addon-api\').include_dir")'],
      'defines': [
        'NAPI_VERSION=8',
        'NODE_ADDON_API_CPP_EXCEPTIONS',
        'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
        'ALLMREC_VERSION="<(version)"',
      ],
      # The plainest set comes first: where an inline function has a copy in each, the linker keeps the first one.
      'dependencies': ['allmrec_core', 'allmrec_kernels_generic'],
      'conditions': [
        ['target_arch=="x64"', { 'dependencies': ['allmrec_kernels_avx2', 'allmrec_kernels_avx512'] }],
        ['OS=="linux"', { 'libraries': ['-ldl', '-lpthread'] }],
      ],
    },
    {
      'target_name': 'allmrec_core',
      'type': 'static_library',
      'defines': ['ALLMREC_VERSION="<(version)"'],
      'sources': [
        '<!@(node -p "const s = require(\'./native/sources.json\'); [s.core, s.io, s.backend, s.cpu, s.autograd, s.nn, s.models].flat().join(\' \')")'
      ],
    },
    {
      'target_name': 'allmrec_kernels_generic',
      'type': 'static_library',
      'sources': ['<@(kernel_sources)'],
      'defines': ['ALLMREC_ISA=generic'],
    },
  ],
  'conditions': [
    ['target_arch=="x64"', {
      'targets': [
        {
          'target_name': 'allmrec_kernels_avx2',
          'type': 'static_library',
          'sources': ['<@(kernel_sources)'],
          'defines': ['ALLMREC_ISA=avx2'],
          'cflags_cc': ['-mavx2', '-mfma', '-mf16c'],
          'xcode_settings': { 'OTHER_CFLAGS': ['-mavx2', '-mfma', '-mf16c'] },
        },
        {
          'target_name': 'allmrec_kernels_avx512',
          'type': 'static_library',
          'sources': ['<@(kernel_sources)'],
          'defines': ['ALLMREC_ISA=avx512'],
          'cflags_cc': ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mf16c'],
          'xcode_settings': {
            'OTHER_CFLAGS': ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mf16c'],
          },
        },
      ],
    }],
  ],
}
